"""Embeddings of the transformers loader, on a tiny model made here."""

import json
import os
from pathlib import Path

import pytest

from hostd_workers.loaders.transformers import load
from hostd_workers.wire.errors import InvalidArgumentError

pytest.importorskip("torch", reason="transformers computes with PyTorch")
pytest.importorskip("transformers", reason="tests with real models")
np = pytest.importorskip("numpy", reason="rows of numbers come out")

from transformers_models import bert, save  # noqa: E402

pytestmark = pytest.mark.heavy_loader

TEXTS = ["the cat", "the cat sat on the mat"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The loader sets variables for the whole process, which is a worker's right, not a test's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def path(tmp_path):
    return save(bert("BertModel"), tmp_path / "model")


def say(path, *modules, **pooling):
    """Write how sentence-transformers would pool."""
    Path(path, "1_Pooling").mkdir()
    Path(path, "1_Pooling", "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    kinds = [
        {"idx": n, "path": "1_Pooling", "type": f"sentence_transformers.models.{one}"} for n, one in enumerate(modules)
    ]
    Path(path, "modules.json").write_text(json.dumps(kinds))


def tokens(served, text):
    return np.asarray(served.model.predict(text)[0], "float32")


def test_a_text_is_the_mean_of_its_tokens_unless_its_author_says_otherwise(path):
    served = load(path)
    assert (served.methods, served.default) == (("predict", "embed", "count_tokens", "describe"), "predict")
    rows = served.model.embed(TEXTS)
    assert (rows.dtype, rows.shape) == ("float32", (2, 16))
    for row, text in zip(rows, TEXTS, strict=True):
        np.testing.assert_allclose(row, tokens(served, text).mean(axis=0), rtol=1e-5)
        np.testing.assert_array_equal(served.model.embed(text)[0], row)
    assert served.model.count_tokens(TEXTS[0]) == 2


def test_the_first_token_and_a_length_of_one_where_the_author_says_so(path):
    say(path, "Transformer", "Pooling", "Normalize", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    served = load(path)
    first = tokens(served, TEXTS[0])[0]
    np.testing.assert_allclose(served.model.embed(TEXTS[0])[0], first / np.linalg.norm(first), rtol=1e-5)


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "has a module Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pools by pooling_mode_max_tokens"),
        (("Transformer", "Pooling"), {}, "pools by nothing"),
    ],
)
def test_another_way_to_pool_is_refused(path, modules, pooling, words):
    say(path, *modules, **pooling)
    with pytest.raises(InvalidArgumentError, match=words):
        load(path)


@pytest.mark.parametrize("given", [[], [1], {"a": 1}, None])
def test_what_is_no_list_of_texts_is_refused(path, given):
    with pytest.raises(InvalidArgumentError, match="embed takes a list of texts"):
        load(path).model.embed(given)
