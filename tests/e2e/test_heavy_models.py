"""One real model of each big framework, served by a real host."""

import os
import textwrap
import warnings
from pathlib import Path

import pytest
from helpers import eventually

import hostd

np = pytest.importorskip("numpy", reason="arrays go in and come out")

pytestmark = [
    pytest.mark.heavy_loader,
    # TorchScript is deprecated and read all the same: there are many such files.
    pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning"),
]

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype(int)


@pytest.fixture
def directory(tmp_path):
    """Make a model's directory, with a `model.yaml` that names its loader and one thread."""

    def make(loader, options="{threads: 1}"):
        place = tmp_path / "model"
        place.mkdir()
        (place / "model.yaml").write_text(f"loader: {loader}\noptions: {options}\n")
        return place

    return make


def check_unloaded(client, model_id):
    report = client.unload_model(model_id)
    assert report.processes == 1
    assert report.freed_bytes > 1 << 20


@pytest.fixture(scope="module")
def net():
    """A PyTorch module, made before the test so that the library's threads are not the test's."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    with torch.inference_mode():
        module(torch.from_numpy(ROWS))
    return module


def test_a_torch_model_is_served(shared, directory, net):
    import torch

    place = directory("torch")
    sizes = {"input": {0: torch.export.Dim("rows")}}
    torch.export.save(torch.export.export(net, (torch.from_numpy(ROWS[:2]),), dynamic_shapes=sizes), place / "net.pt2")
    model = shared.load_model("net", str(place))
    with torch.inference_mode():
        expected = net(torch.from_numpy(ROWS)).numpy()
    assert np.allclose(model.predict(ROWS), expected, atol=1e-5)
    assert np.allclose(model(ROWS[:2]), expected[:2], atol=1e-5)
    assert model.describe()["kind"] == "exported"
    with pytest.raises(hostd.InvalidArgumentError, match="float64"):
        model.predict(ROWS.astype("float64"))
    check_unloaded(shared, "net")


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A text generation model of transformers with eight words."""
    torch = pytest.importorskip("torch", reason="transformers computes with PyTorch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "the", "cat", "sat", "on", "a", "mat"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=4096, n_embd=16, n_layer=1, n_head=2, eos_token_id=None, bos_token_id=None
    )
    place = tmp_path_factory.mktemp("writer") / "model"
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(place)
    (place / "model.yaml").write_text("loader: transformers\noptions: {threads: 1}\n")
    return place


def threads_of(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def test_a_transformers_model_is_served_and_a_stream_of_its_text_that_is_closed_ends_there(shared, writer):
    model = shared.load_model("writer", str(writer))
    assert model.info.methods["generate"].streams
    (said,) = model.predict("the cat", max_new_tokens=5, do_sample=False)
    assert said["generated_text"].startswith("the cat")
    pieces = list(model.stream.generate("the cat", max_new_tokens=5, do_sample=False))
    assert len(pieces) > 2
    assert "".join(["the cat", *pieces]).replace(" ", "") == said["generated_text"].replace(" ", "")
    with pytest.raises(hostd.InvalidArgumentError, match="not used by the model"):
        list(model.stream.generate("the", nonsense=1))
    (worker,) = model.info.workers
    with model.stream.generate("the cat", max_new_tokens=4000, do_sample=False) as items:
        for _ in range(20):  # meanwhile the threads of the streams before end
            next(items)
        during = threads_of(worker.pid)
    eventually(lambda: threads_of(worker.pid) < during, "the thread of the generation ends")
    assert model.predict("the", max_new_tokens=1)
    check_unloaded(shared, "writer")


@pytest.fixture(scope="module")
def booster():
    """A booster of xgboost, and what it predicts; made before the test so that its threads are not the test's."""
    xgboost = pytest.importorskip("xgboost", reason="needs xgboost")
    rows = xgboost.DMatrix(ROWS, LABELS, feature_names=list("abc"), nthread=1)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, rows, 3)
    return booster, booster.predict(rows)


def test_a_booster_is_served(shared, directory, booster):
    trained, expected = booster
    place = directory("xgboost")
    trained.save_model(place / "model.ubj")
    model = shared.load_model("booster", str(place))
    assert np.array_equal(model.predict(ROWS), expected)
    assert np.array_equal(model.predict({name: ROWS[:, at] for at, name in enumerate("abc")}), expected)
    with pytest.raises(hostd.InvalidArgumentError, match="has 3 columns"):
        model.predict(ROWS[:, :1])
    check_unloaded(shared, "booster")


SOURCE = """
    import mlflow

    class Model(mlflow.pyfunc.PythonModel):
        @mlflow.trace
        def predict(self, context, model_input, params=None):
            return model_input["a"] + model_input["b"]

    mlflow.models.set_model(Model())
"""


@pytest.fixture(scope="module")
def pyfunc(tmp_path_factory):
    """A model of MLflow that traces its calls, which MLflow keeps in a database unless told not to."""
    library = pytest.importorskip("mlflow.pyfunc", reason="needs mlflow")
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    source = tmp_path_factory.mktemp("pyfunc") / "source.py"
    source.write_text(textwrap.dedent(SOURCE))
    place = source.parent / "model"
    signature = ModelSignature(inputs=Schema([ColSpec("double", "a"), ColSpec("double", "b")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice to authors
        library.save_model(place, python_model=str(source), signature=signature, pip_requirements=[])
    (place / "model.yaml").write_text("loader: mlflow\n")
    return place


def test_an_mlflow_model_is_served_and_leaves_no_files(shared, pyfunc):
    model = shared.load_model("pyfunc", str(pyfunc))
    (worker,) = model.info.workers
    home = Path(f"/proc/{worker.pid}/cwd")
    before = sorted(os.listdir(home)), sorted(os.listdir(pyfunc))
    assert model.predict({"a": [1.0, 2.0], "b": np.array([3.0, 4.0])}).tolist() == [4.0, 6.0]
    assert model.predict([[1.0, 2.0]]).tolist() == [3.0]
    with pytest.raises(hostd.InvalidArgumentError, match="mlflow refused"):
        model.predict({"a": [1.0]})
    assert (sorted(os.listdir(home)), sorted(os.listdir(pyfunc))) == before
    check_unloaded(shared, "pyfunc")
