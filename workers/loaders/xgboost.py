"""Loads XGBoost models (Booster) from JSON and UBJSON files."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served, Signature, Tensor
from hostd_workers.loaders._common.opening import first_lines, import_library, model_file, read_model
from hostd_workers.loaders._common.reported import columns, is_named, reported, signature
from hostd_workers.loaders._common.threads import openmp_threads
from hostd_workers.loaders._common.ubjson import is_whole
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXTRA = "xgboost"
SUFFIXES = (".ubj", ".json", ".xgb")
METHODS = ("predict", "describe")
_EXTRAS = {"xgboost": EXTRA, "numpy": EXTRA, "scipy": EXTRA}
_JSON = re.compile(rb'\{\s*"')


def load(path: str | None, /, *, file: str | None = None, threads: int | None = None) -> Served:
    """Return the booster in the file `path`, or in the one model file of the directory `path` (or its file `file`).

    A `.xgb` file is JSON or UBJSON too, as its content says. `threads` is the number of threads of a prediction (None:
    those that the host allots).

    Served are `predict` (the default) and `describe`.

    Raises MissingDependencyError without xgboost, InvalidArgumentError for a damaged file and wrong options,
    NotFoundError if nothing is there.
    """
    found = model_file(path, file, SUFFIXES)
    count = openmp_threads(threads)
    settings = {} if count is None else {"nthread": count}
    xgboost = import_library("xgboost", EXTRA)
    booster = read_model(found, functools.partial(_read, xgboost), _EXTRAS)
    booster.set_param(settings)
    model = BoosterModel(xgboost, booster)
    return Served(model, METHODS, "predict", reported(model.signatures))


def _read(xgboost: Any, found: Path) -> Any:
    booster = xgboost.Booster()
    if found.suffix.lower() == ".json":
        booster.load_model(str(found))
        return booster
    # In memory, because by its name a file with a suffix that XGBoost does not know is taken for UBJSON.
    content = bytearray(found.read_bytes())
    if not _JSON.match(content) and not is_whole(content):
        raise InvalidArgumentError(f"{found} cannot be loaded: it is no XGBoost model in UBJSON, or only a part of one")
    booster.load_model(content)
    return booster


class BoosterModel:
    """A booster that takes arrays, nested lists, columns by name, or records."""

    def __init__(self, xgboost: Any, booster: Any) -> None:
        self._xgboost = xgboost
        self._booster = booster
        # Imported here because it needs NumPy, which comes with xgboost.
        self._columns = import_library("hostd_workers.loaders._common.columns", EXTRA)

    def __repr__(self) -> str:
        return f"BoosterModel(features={self._booster.num_features()}, rounds={self._booster.num_boosted_rounds()})"

    def predict(
        self,
        data: object,
        /,
        *,
        output_margin: bool = False,
        pred_leaf: bool = False,
        pred_contribs: bool = False,
        pred_interactions: bool = False,
        iteration_range: Sequence[int] = (0, 0),
        strict_shape: bool = False,
    ) -> Any:
        """Return the booster's predictions for rows of features, a map of feature names to columns, or records.

        They are what `xgboost.Booster.predict` returns: for a binary classifier the probability of the second class,
        whatever the estimator that trained it would return. NaN, or None in a list, is a missing value; a category is
        the number that it had in training. The options are those of `Booster.predict`.
        """
        booster = self._booster
        match iteration_range:
            case [int(begin), int(end)]:
                pass
            case _:
                raise InvalidArgumentError(f"iteration_range must be two numbers, got {iteration_range!r}")
        array = self._columns.matrix(data, booster.feature_names, booster.num_features())
        try:
            rows = self._xgboost.DMatrix(
                array,
                feature_names=booster.feature_names,
                feature_types=booster.feature_types,
                enable_categorical=True,
            )
            return booster.predict(
                rows,
                output_margin=output_margin,
                pred_leaf=pred_leaf,
                pred_contribs=pred_contribs,
                pred_interactions=pred_interactions,
                iteration_range=(begin, end),
                strict_shape=strict_shape,
            )
        except ValueError as error:  # the base class of XGBoostError
            raise InvalidArgumentError(f"xgboost refused: {first_lines(error)}") from error

    def signatures(self) -> dict[str, Signature]:
        """Return what the booster knows of its features; a category is the number that it had in training."""
        names = self._booster.feature_names
        outputs = [Tensor("predict", "FP32")]
        if names is not None and is_named(names):
            return {"predict": signature(columns(names, "FP32"), outputs, "map", 0)}
        return {"predict": signature([Tensor("data", "FP32", (-1, self._booster.num_features()))], outputs, "array", 0)}

    def describe(self) -> dict[str, Any]:
        """Return the features' number, names and types (None where the model does not say), and the rounds."""
        booster = self._booster
        return {
            "features": booster.num_features(),
            "feature_names": booster.feature_names,
            "feature_types": booster.feature_types,
            "rounds": booster.num_boosted_rounds(),
        }
