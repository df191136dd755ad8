"""Embeddings of texts: what a pipeline says of each token, pooled to one row of numbers.

How it is pooled is read from the files of sentence-transformers (`modules.json`), where they are; else it is the mean.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hostd_workers.loaders._models.transformers import PipelineModel
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODULES = "modules.json"
_FIRST, _MEAN = "pooling_mode_cls_token", "pooling_mode_mean_tokens"


class Pooling(NamedTuple):
    """How rows of tokens become one: the first of them or their mean, of length 1 or as it is."""

    is_of_first: bool = False
    is_normalized: bool = False


class EmbeddingModel(PipelineModel):
    """A pipeline for feature extraction that makes one row of a text."""

    def __init__(self, torch: Any, pipeline: Any, pooling: Pooling) -> None:
        super().__init__(torch, pipeline)
        self._pooling = pooling

    def embed(self, texts: Any, /) -> Any:
        """Return a row of numbers for each text, as 32-bit floats; `texts` is a list of them, or one."""
        if isinstance(texts, str):
            texts = [texts]
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidArgumentError(f"embed takes a list of texts, got {type(texts).__name__}")
        # One by one: a batch is filled up with tokens that would count.
        return np.stack([self._pooled(self.predict(text)) for text in texts])

    def count_tokens(self, text: str, /) -> int:
        """Return how many tokens a text has, those that the model needs around it included."""
        return self._length(text)

    def _pooled(self, tokens: Any) -> Any:
        rows = np.asarray(tokens[0], "float32")
        row = rows[0] if self._pooling.is_of_first else rows.mean(axis=0)
        return row / max(float(np.linalg.norm(row)), 1e-12) if self._pooling.is_normalized else row


def pooling_of(directory: Path) -> Pooling:
    """Return how the author of a model pools.

    Raises InvalidArgumentError for a way that is not known: the rows would be others.
    """
    file = directory / MODULES
    if not file.is_file():
        return Pooling()
    modules: Sequence[Any] = json.loads(file.read_text("utf-8"))
    kinds = {str(module["type"]).rpartition(".")[2]: module for module in modules}
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise InvalidArgumentError(f"{file} has a module {unknown[0]}; write a model.py that embeds with it")
    if "Pooling" not in kinds:
        return Pooling(is_normalized="Normalize" in kinds)
    settings = json.loads((directory / kinds["Pooling"]["path"] / "config.json").read_text("utf-8"))
    modes = [name for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    if modes not in ([_FIRST], [_MEAN]):
        raise InvalidArgumentError(f"{file} pools by {', '.join(modes) or 'nothing'}; write a model.py that does so")
    return Pooling(modes == [_FIRST], "Normalize" in kinds)
