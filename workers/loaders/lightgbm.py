"""Loads LightGBM models (Booster) from their text files."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served, Signature, Tensor
from hostd_workers.loaders._common.opening import first_lines, import_library, model_file, read_model
from hostd_workers.loaders._common.reported import columns, is_named, reported, signature
from hostd_workers.loaders._common.threads import openmp_threads
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "lightgbm"
SUFFIXES = (".txt", ".lgb", ".lightgbm", ".model")
METHODS = ("predict", "describe")
_EXTRAS = {"lightgbm": EXTRA, "numpy": EXTRA, "scipy": EXTRA}
_FIRST_LINE = b"tree\n"
_AFTER_TREES = b"end of trees"


def load(path: str | None, /, *, file: str | None = None, threads: int | None = None) -> Served:
    """Return the booster in the file `path`, or in the one model file of the directory `path` (or its file `file`).

    `threads` is the number of threads of a prediction (None: those that the host allots).

    Served are `predict` (the default) and `describe`.

    Raises MissingDependencyError without lightgbm, InvalidArgumentError for a damaged file and wrong options,
    NotFoundError if nothing is there.
    """
    found = model_file(path, file, SUFFIXES)
    count = openmp_threads(threads)
    settings = {} if count is None else {"num_threads": count}
    lightgbm = import_library("lightgbm", EXTRA)
    booster, categorical = read_model(found, functools.partial(_read, lightgbm), _EXTRAS)
    model = BoosterModel(lightgbm, booster, categorical, settings)
    return Served(model, METHODS, "predict", reported(model.signatures))


def _read(lightgbm: Any, found: Path) -> tuple[Any, dict[str, list[Any]]]:
    content = found.read_bytes()
    # LightGBM 4.7 aborts the whole process over a file that ends within its trees.
    if not _is_complete(content):
        raise InvalidArgumentError(
            f"{found} cannot be loaded: it is no LightGBM text model (Booster.save_model), or only a part of one"
        )
    booster = lightgbm.Booster(model_file=str(found))
    return booster, _categories(content, booster)


def _is_complete(content: bytes) -> bool:
    """Say whether every tree that the header announces is there, at its place."""
    if not content.startswith(_FIRST_LINE):
        return False
    sizes = re.search(rb"^tree_sizes=([\d ]*)$", content, re.MULTILINE)
    begin = content.find(b"\nTree=0\n") + 1
    if sizes is None or not begin:
        return _AFTER_TREES in content
    for number, size in enumerate(map(int, sizes[1].split())):
        if not content.startswith(b"Tree=%d\n" % number, begin):
            return False
        begin += size
    return content.startswith(_AFTER_TREES, begin)


def _categories(content: bytes, booster: Any) -> dict[str, list[Any]]:
    """Return the categories of each column that was a pandas categorical in training; their places are the codes."""
    known = booster.pandas_categorical or []
    infos = re.search(rb"^feature_infos=(.*)$", content, re.MULTILINE)
    # [low:high] for numbers, 0:2:5 for categories.
    pairs = zip(booster.feature_name(), infos[1].split() if infos else [], strict=False)
    names = [name for name, info in pairs if re.fullmatch(rb"-?\d+(:-?\d+)*", info)]
    if known and len(names) != len(known):
        raise InvalidArgumentError(
            f"the model was trained with {len(known)} categorical columns of a data frame, but its file has "
            f"{len(names)} ({', '.join(names)}); write a model.py that encodes them"
        )
    return dict(zip(names, known, strict=False))


class BoosterModel:
    """A booster that takes arrays, nested lists, columns by name, or records."""

    def __init__(
        self, lightgbm: Any, booster: Any, categories: Mapping[str, list[Any]], settings: Mapping[str, int]
    ) -> None:
        self._error = lightgbm.basic.LightGBMError
        self._booster = booster
        self._settings = settings
        self._codes = {name: {value: code for code, value in enumerate(of)} for name, of in categories.items()}
        # Imported here because it needs NumPy, which comes with lightgbm.
        self._columns = import_library("hostd_workers.loaders._common.columns", EXTRA)

    def __repr__(self) -> str:
        return f"BoosterModel(features={self._booster.num_feature()}, trees={self._booster.num_trees()})"

    def predict(
        self,
        data: object,
        /,
        *,
        raw_score: bool = False,
        pred_leaf: bool = False,
        pred_contrib: bool = False,
        start_iteration: int = 0,
        num_iteration: int | None = None,
    ) -> Any:
        """Return the booster's predictions for rows of features, a map of feature names to columns, or records.

        They are what `lightgbm.Booster.predict` returns: for a binary classifier the probability of the second class.
        NaN, or None in a list, is a missing value. In a map, a column that was a pandas categorical in training takes
        its categories (one that was not there is a missing value); in an array, their codes. The options are those of
        `Booster.predict`.
        """
        booster = self._booster
        data = self._columns.columns_of(data)
        if isinstance(data, Mapping):
            data = {name: self._encoded(name, column) for name, column in data.items()}
        array = self._columns.matrix(data, booster.feature_name(), booster.num_feature())
        try:
            return booster.predict(
                array,
                raw_score=raw_score,
                pred_leaf=pred_leaf,
                pred_contrib=pred_contrib,
                start_iteration=start_iteration,
                num_iteration=num_iteration,
                **self._settings,
            )
        except (self._error, ValueError, TypeError) as error:
            raise InvalidArgumentError(f"lightgbm refused: {first_lines(error)}") from error

    def signatures(self) -> dict[str, Signature]:
        """Return what the booster knows of its features; `Column_0` and so on are none of a data frame's."""
        names = self._booster.feature_name()
        several = self._booster.num_model_per_iteration()
        outputs = [Tensor("predict", "FP64", (-1, several) if several > 1 else (-1,))]
        if is_named(names) and list(names) != [f"Column_{place}" for place in range(len(names))]:
            return {"predict": signature(columns(names, "FP64", list(self._codes)), outputs, "map", 0)}
        return {"predict": signature([Tensor("data", "FP64", (-1, len(names)))], outputs, "array", 0)}

    def describe(self) -> dict[str, Any]:
        """Return the features' number and names, the categories of those that have some, and the number of trees."""
        booster = self._booster
        return {
            "features": booster.num_feature(),
            "feature_names": booster.feature_name(),
            "categories": {name: list(codes) for name, codes in self._codes.items()},
            "trees": booster.num_trees(),
        }

    def _encoded(self, name: object, column: Any) -> Any:
        codes = self._codes.get(str(name))
        if codes is None or not hasattr(column, "__iter__"):
            return column
        values = column.tolist() if hasattr(column, "tolist") else column
        try:
            return [codes.get(value, math.nan) for value in values]
        except TypeError as error:  # a value that is a list itself
            raise InvalidArgumentError(f"the column {name!r} must be a list of categories: {error}") from None
