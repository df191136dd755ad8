"""The transformers loader, on tiny models made here."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from loading_rig import over_the_wire, refused

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.transformers import load
from hostd_workers.wire.errors import FailedPreconditionError

pytest.importorskip("torch", reason="transformers computes with PyTorch")
pytest.importorskip("transformers", reason="tests with real models")
np = pytest.importorskip("numpy", reason="arrays go in and come out")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers_models import bert, save, save_gpt  # noqa: E402

pytestmark = pytest.mark.heavy_loader


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The loader sets variables for the whole process, which is a worker's right, not a test's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save(bert(), tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    return save_gpt(tmp_path_factory.mktemp("gpt") / "model")


def configure(path, **settings):
    config = Path(path, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


def run(script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_directory_answers_as_its_pipeline_does_in_process(classifier):
    result = load(classifier)
    assert (result.methods, result.default) == (("predict", "describe"), "predict")
    expected = transformers.pipeline("text-classification", model=classifier)("the cat sat")
    (found,) = result.model.predict("the cat sat")
    assert found["label"] == expected[0]["label"]
    assert found["score"] == pytest.approx(expected[0]["score"])
    assert len(result.model.predict(["the cat", "the mat"])) == 2
    assert len(result.model.predict("the cat", top_k=None)) == 2
    assert over_the_wire(result.model.predict("the cat sat")) == [found]
    about = result.model.describe()
    assert about.pop("parameters") > 1000
    told = {"task": "text-classification", "model": "BertForSequenceClassification", "device": "cpu"}
    assert told.items() <= about.items()
    assert "text-classification" in repr(result.model)


@pytest.mark.parametrize(
    ("cls", "task", "text", "keys"),
    [
        ("BertForMaskedLM", "fill-mask", "the [MASK] sat", "score token token_str sequence"),
        ("BertForTokenClassification", "token-classification", "the cat", "entity score index word start end"),
    ],
)
def test_the_task_is_that_of_the_architecture_and_results_are_plain(tmp_path, cls, task, text, keys):
    model = load(save(bert(cls), tmp_path)).model
    assert model.describe()["task"] == task
    first = model.predict(text)[0]
    assert set(first) == set(keys.split())
    assert type(first["score"]) is float
    assert over_the_wire(first) == first


def test_the_option_task_comes_before_the_architecture_which_must_tell_one_without(tmp_path):
    path = save(bert("BertModel"), tmp_path)
    model = load(path).model
    assert model.describe()["task"] == "feature-extraction"
    vectors = model.predict("the cat", return_tensors=True)
    assert (vectors.dtype, vectors.shape) == (np.dtype("float32"), (1, 2, 16))
    assert load(path, task="fill-mask").model.describe()["task"] == "fill-mask"
    refused(r"no task 'guess'; known are .*fill-mask", load, path, task="guess")
    for architectures in (["BertForDreaming"], None):
        configure(path, architectures=architectures)
        refused(r"tell no task; say it with the option task.*fill-mask", load, path)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"predict has the signature .*missing a required argument"),
        ((3,), {}, "refused its input"),
        (("the",), {"trust_remote_code": True}, "cannot set 'trust_remote_code'"),
        (("the",), {"tokenizer": "x"}, "cannot set 'tokenizer'"),
        (("the " * 100,), {}, "takes 64 tokens, and this would be 100"),
        ((["cat", "the " * 100],), {"batch_size": 2}, "takes 64 tokens"),
    ],
)
def test_wrong_input_is_the_callers_error(classifier, args, kwargs, says):
    refused(says, load(classifier).model.predict, *args, **kwargs)


def test_a_caller_cannot_name_code_to_load(gpt, tmp_path):
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    model = load(gpt).model
    call = {"custom_generate": str(tmp_path), "trust_remote_code": True, "max_new_tokens": 2}
    refused("what code is loaded is up to the model's owner", model.predict, "the", **call)
    refused("what code is loaded", model.predict, "the", generate_kwargs=call)
    refused("what code is loaded", next, model.generate("the", **call))
    assert not (tmp_path / "ran").exists()


def test_a_caller_cannot_have_files_or_addresses_opened(tmp_path):
    images = pytest.importorskip("PIL.Image", reason="reads images")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=8, patch_size=4, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    # Written, not saved: its class needs more libraries than its use.
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = load(str(tmp_path)).model
    assert model.describe()["task"] == "image-classification"
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype("uint8")
    expected = model.predict(pixels)
    assert {"label", "score"} == set(expected[0])
    images.fromarray(pixels).save(tmp_path / "image.png")
    assert model.predict((tmp_path / "image.png").read_bytes()) == expected
    assert model.predict([pixels, pixels]) == [expected, expected]
    for given in ("http://localhost:1/image.png", str(tmp_path / "image.png"), [str(tmp_path / "image.png")]):
        refused("opens no file or address for a caller", model.predict, given)
    chat = [{"role": "user", "content": [{"type": "image", "url": "http://localhost:1/"}]}]
    refused("opens no file", model.predict, chat)
    for no_image in (b"no image", pixels.astype("complex64")):
        refused("image is an array of uint8", model.predict, no_image)


# What is loaded


def test_code_in_the_directory_runs_only_if_the_option_says_so(tmp_path):
    path = save(bert(), tmp_path / "model")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    configure(path, auto_map=classes, model_type="own")
    source = """
        from transformers import BertConfig, BertForSequenceClassification

        class OwnConfig(BertConfig):
            model_type = "own"

        class OwnModel(BertForSequenceClassification):
            config_class = OwnConfig
    """
    Path(path, "own.py").write_text(textwrap.dedent(source))
    refused(r"(?s)cannot be loaded.*trust_remote_code", load, path, task="text-classification")
    refused("must be true or false", load, path, trust_remote_code="yes")
    # In a process of its own: the library keeps copies of such code, and where, it reads at its import.
    script = """
        import sys
        from hostd_workers.loaders.transformers import load
        model = load(sys.argv[1], task="text-classification", trust_remote_code=True).model
        print(model.describe()["model"], model.predict("the cat")[0]["label"])
    """
    done = run(script, path, HF_MODULES_CACHE=str(tmp_path / "cache"))
    assert done.stdout.startswith("OwnModel LABEL_"), done.stderr


def test_nothing_is_asked_of_the_network(gpt, tmp_path):
    script = """
        import socket, sys
        asked = []
        def refuse(*arguments, **_):
            asked.append(arguments)
            raise OSError("no network here")
        socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
        from hostd_workers.loaders.transformers import load
        model = load(sys.argv[1]).model
        short = {"max_new_tokens": 2, "do_sample": False}
        print(model.predict("the cat", **short) != [], "".join(model.generate("the", **short)) != "")
        try:
            load(sys.argv[2], task="fill-mask", trust_remote_code=True)
        except Exception as error:
            print(type(error).__name__)
        print(asked)
    """
    path = save(bert(), tmp_path / "elsewhere")
    configure(path, model_type="own", auto_map={"AutoConfig": "somebody/model--own.OwnConfig"})
    done = run(script, gpt, path, HF_HUB_OFFLINE="0", HOME=str(tmp_path / "home"))
    assert done.stdout.splitlines() == ["True True", "InvalidArgumentError", "[]"], done.stderr
    assert not (tmp_path / "home").exists()


DAMAGED = {
    "config.json": [
        b"",
        b"no json",
        b"[1]",
        b'{"architectures": ["BertForSequenceClassification"]}',
        b'{"model_type": "nothing_known"}',
    ],
    "model.safetensors": [b"", b"no weights", None, "cut"],
    "tokenizer.json": [b"no json"],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_with_the_models_name(tmp_path, name):
    file = Path(save(bert(), tmp_path / "model"), name)
    whole = file.read_bytes()
    for content in DAMAGED[name]:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(whole[:-10] if content == "cut" else content)
        refused("model cannot be loaded", load, str(file.parent))


def test_a_device_and_a_library_that_are_not_there_are_typed_errors(classifier, monkeypatch):
    with pytest.raises(FailedPreconditionError, match="cannot be used here"):
        load(classifier, device="cuda:99")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"'transformers'.*install it with.*transformers"):
        load(classifier)
