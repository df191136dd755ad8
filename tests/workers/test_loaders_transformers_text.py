"""Text generation of the transformers loader, on a tiny model made here."""

import contextlib
import inspect
import json
import os
import threading
from pathlib import Path

import pytest
from loading_rig import refused

from hostd_workers.loaders.transformers import load
from hostd_workers.wire.errors import InvalidArgumentError

pytest.importorskip("torch", reason="transformers computes with PyTorch")
transformers = pytest.importorskip("transformers", reason="tests with real models")

from helpers import eventually, never, threads  # noqa: E402
from transformers_models import save_gpt  # noqa: E402

pytestmark = pytest.mark.heavy_loader

GREEDY = {"do_sample": False}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The loader sets variables for the whole process, which is a worker's right, not a test's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    return save_gpt(tmp_path_factory.mktemp("gpt") / "model")


@pytest.fixture
def model(gpt):
    return load(gpt, threads=1).model


def is_generating():
    return any(thread.name == "generate" for thread in threading.enumerate())


def test_text_comes_in_pieces_that_make_the_whole(gpt, model):
    result = load(gpt)
    assert (result.methods, result.default) == (("predict", "generate", "count_tokens", "describe"), "predict")
    assert inspect.isgeneratorfunction(model.generate)
    pieces = list(model.generate("the cat", **GREEDY, max_new_tokens=6))
    assert len(pieces) > 3
    pipeline = transformers.pipeline("text-generation", model=gpt)
    (whole,) = pipeline("the cat", **GREEDY, max_new_tokens=6, return_full_text=False)
    assert "".join(pieces).strip() == whole["generated_text"].strip()
    (said,) = model.predict("the cat", **GREEDY, max_new_tokens=6, return_full_text=False)
    assert said == whole
    assert not is_generating()


def test_a_temperature_samples_and_a_seed_repeats_it(model):
    def text(**options):
        return "".join(model.generate("the cat", max_new_tokens=8, **options))

    assert text(temperature=0) == text(**GREEDY)
    assert text(temperature=5.0, seed=1) == text(temperature=5.0, seed=1)
    assert len({text(temperature=5.0, seed=seed) for seed in range(5)}) > 1
    with pytest.raises(InvalidArgumentError, match="seed must be a number"):
        text(seed="one")


def test_tokens_are_counted_as_the_model_gets_them(model, gpt):
    assert [model.count_tokens(text) for text in ("the", "the cat sat")] == [1, 3]
    model._pipeline.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    assert model.count_tokens([{"role": "user", "content": "the cat"}, {"role": "user", "content": "sat"}]) == 3


def test_a_generator_that_is_closed_leaves_no_thread(model):
    model.generate("the", max_new_tokens=1).close()  # it was never begun
    assert not is_generating()
    list(model.generate("the", max_new_tokens=1))  # what a library starts once
    before = threads()
    items = model.generate("the cat", **GREEDY, max_new_tokens=50)
    assert not is_generating()
    next(items)
    assert is_generating()
    items.close()
    assert not is_generating()
    eventually(lambda: threads() <= before, "no thread of the generation is left")


def test_a_slow_reader_holds_the_generation_back(model):
    made = 0

    def count(*_):
        nonlocal made
        made += 1

    hook = model._pipeline.model.register_forward_hook(count)
    with contextlib.closing(model.generate("the cat", **GREEDY, max_new_tokens=40)) as items:
        for taken in range(1, 4):
            next(items)
            # TextIteratorStreamer keeps the last word back, and one token may be under way.
            never(lambda limit=taken + 3: made > limit, "it went on alone", for_s=0.2)
        rest = list(items)
    hook.remove()
    assert made == 40
    assert len(rest) + 3 <= 41


def test_what_is_left_out_is_as_for_predict(gpt):
    settings = Path(gpt, "generation_config.json")
    before = settings.read_text()
    settings.write_text(json.dumps({**json.loads(before), "do_sample": False, "max_new_tokens": 3}))
    model = load(gpt).model
    settings.write_text(before)
    (said,) = model.predict("the cat", return_full_text=False)
    assert "".join(model.generate("the cat")).strip() == said["generated_text"].strip()
    assert len(said["generated_text"].split()) == 3
    # What only the pipeline sets when neither the call nor the model does: to sample, which a call may undo.
    texts = {"".join(load(gpt).model.generate("the cat", max_new_tokens=12)) for _ in range(5)}
    assert len(texts) > 1


def test_two_generations_and_a_prediction_go_on_side_by_side(model):
    alone = list(model.generate("the cat", **GREEDY, max_new_tokens=8))
    first, second = (model.generate("the cat", **GREEDY, max_new_tokens=8) for _ in range(2))
    both = [(a, b, model.predict("on the mat", max_new_tokens=2)) for a, b in zip(first, second, strict=True)]
    assert [a for a, _, _ in both] == alone
    assert [b for _, b, _ in both] == alone
    assert not is_generating()


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        (3, {}, "a prompt is a string or a list of messages"),
        ([], {}, "a prompt is a string or a list of messages"),
        ([{"content": "the"}], {}, "a prompt is a string or a list of messages"),
        ("", {}, "has no tokens"),
        ("the", {"max_new_tokens": -1}, "must be greater than 0"),
        ("the", {"max_new_tokens": "many"}, "refused its input"),
        ("the", {"nonsense": 1}, "not used by the model: .'nonsense'"),
        ("the", {"num_beams": 2}, "TextStreamer only supports batch size 1|beam search"),
        ("the", {"stopping_criteria": []}, "cannot set 'stopping_criteria'"),
        ("the", {"input_ids": [1]}, "cannot set 'input_ids'"),
        ("the " * 100, {"max_new_tokens": 3}, "takes 64 tokens, and this would be 103"),
        ("the", {"max_new_tokens": 100}, "takes 64 tokens, and this would be 101"),
        ([{"role": "user", "content": "the"}], {}, "chat template"),
    ],
)
def test_wrong_input_is_the_callers_error(model, prompt, options, says):
    refused(says, lambda: list(model.generate(prompt, **options)))
    assert not is_generating()


def test_an_error_of_the_model_passes_through(model):
    def fail(*_):
        raise RuntimeError("the model's own")

    hook = model._pipeline.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="the model's own"):
        list(model.generate("the", max_new_tokens=3))
    hook.remove()
    assert not is_generating()


def test_messages_are_a_prompt_for_a_model_with_a_chat_template(tmp_path):
    path = save_gpt(tmp_path / "model")
    file = Path(path, "tokenizer_config.json")
    template = (
        "{% for message in messages %}{% if message['role'] != 'user' %}{{ raise_exception('alien') }}{% endif %}"
    )
    template += "{{ message['content'] }} {% endfor %}"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    model = load(path).model
    messages = [{"role": "user", "content": word} for word in ("the", "cat")]
    said = list(model.generate(messages, **GREEDY, max_new_tokens=5))
    assert said == list(model.generate("the cat", **GREEDY, max_new_tokens=5))
    wrong = [{"role": "alien", "content": "the"}]
    refused("chat template refused the messages: alien", lambda: list(model.generate(wrong, max_new_tokens=1)))
