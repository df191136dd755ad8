"""Loads scikit-learn estimators, and others with their interface, from joblib, pickle and skops files.

A joblib or pickle file is code: loading it runs whatever its author put there. A skops file is not; types that skops
does not trust must be named in the option `trusted`.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hostd_workers.api import MissingDependencyError, Served
from hostd_workers.loaders._opening import check_binding, import_library, model_file, read_model
from hostd_workers.loaders._results import travelling
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "sklearn"
SUFFIXES = (".joblib", ".pkl", ".pickle", ".skops")
METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "transform",
    "inverse_transform",
    "kneighbors",
    "apply",
    "score",
)
# Libraries whose estimators are often saved with joblib, and the extra of this package that brings each.
_EXTRAS = {"sklearn": EXTRA, "scipy": EXTRA, "numpy": EXTRA, "xgboost": "xgboost", "lightgbm": "lightgbm"}


def load(path: str | None, /, *, file: str | None = None, trusted: Sequence[str] = ()) -> Served:
    """Return the estimator in the file `path`, or in the one model file of the directory `path` (or its file `file`).

    Served are those of `METHODS` that the estimator really has; the default is `predict`, else `transform`, else the
    first of them. `trusted` lists the full names of types that a skops file may hold beyond what skops trusts itself.

    Raises MissingDependencyError without scikit-learn, joblib or (for a skops file) skops, InvalidArgumentError for a
    damaged file, untrusted types and an object without any of the methods, NotFoundError if nothing is there.
    """
    found = model_file(path, file, SUFFIXES)
    names = _checked_names(trusted)
    import_library("sklearn", EXTRA)
    if found.suffix.lower() == ".skops":
        estimator = read_model(found, functools.partial(_load_skops, trusted=names), _EXTRAS)
    else:
        if names:
            raise InvalidArgumentError(f"the option trusted is for skops files; {found} runs its code in any case")
        estimator = read_model(found, import_library("joblib", EXTRA).load, _EXTRAS)
    methods = tuple(name for name in METHODS if callable(getattr(estimator, name, None)))
    if not methods:
        raise InvalidArgumentError(
            f"{found} holds a {type(estimator).__name__}, which has no {', '.join(METHODS[:-1])} or {METHODS[-1]}; "
            "save the fitted estimator itself, or write a model.py that loads this file"
        )
    default = next((name for name in ("predict", "transform") if name in methods), methods[0])
    return Served(EstimatorModel(estimator), methods, default)


class EstimatorModel:
    """An estimator whose methods take and return what can travel.

    The first argument may be an array, a nested list, or a mapping of column names to columns of equal length, which
    becomes a pandas data frame with the columns in the order of the fit. Results are as `_results.travelling` says.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._estimator, name)
        if not callable(value):
            return value
        served = self._served(name, value)
        setattr(self, name, served)  # the next call finds it without coming here
        return served

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._estimator)})

    def __repr__(self) -> str:
        return f"EstimatorModel({self._estimator!r})"

    def _served(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)
        def served(*args: Any, **kwargs: Any) -> object:
            if args:
                args = (self._table(args[0]), *args[1:])
            elif "X" in kwargs:
                kwargs["X"] = self._table(kwargs["X"])
            try:
                result = method(*args, **kwargs)
            except (TypeError, ValueError) as error:
                check_binding(method, args, kwargs, name=name)
                if _is_about_input(error):
                    raise InvalidArgumentError(f"{name} refused its input: {error}") from error
                raise
            return travelling(result)

        return served

    def _table(self, data: object) -> Any:
        # A mapping of single values stays one: it is a sample for DictVectorizer and its kind.
        if not isinstance(data, Mapping) or not all(_is_column(column) for column in data.values()):
            return data
        try:
            pandas = import_library("pandas", EXTRA)
        except MissingDependencyError as error:
            raise FailedPreconditionError("columns by name need pandas in the worker's interpreter") from error
        fitted = getattr(self._estimator, "feature_names_in_", None)
        order = list(data) if fitted is None else [str(name) for name in fitted]
        if set(order) != set(data):
            raise InvalidArgumentError(f"the model was fitted with the columns {order}, got {list(data)}")
        lengths = {name: len(data[name]) for name in order}
        if len(set(lengths.values())) > 1:
            raise InvalidArgumentError(f"the columns must be of equal length, got {lengths}")
        return pandas.DataFrame({name: data[name] for name in order})


def _is_about_input(error: Exception) -> bool:
    # scikit-learn raises ValueError for everything. What its validation raises is the caller's to mend, except for
    # NotFittedError (also an AttributeError), which is the model's.
    frames = traceback.walk_tb(error.__traceback__)
    in_validation = any(frame.f_globals.get("__name__") == "sklearn.utils.validation" for frame, _ in frames)
    return in_validation and not isinstance(error, AttributeError)


def _is_column(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, Mapping))


def _checked_names(trusted: object) -> list[str]:
    # One string is a sequence of strings too, and skops once took True for "anything".
    if not isinstance(trusted, (list, tuple)) or not all(isinstance(name, str) for name in trusted):
        raise InvalidArgumentError(f"the option trusted must be a list of type names, got {trusted!r}")
    return list(trusted)


def _load_skops(file: Path, trusted: list[str]) -> object:
    skops = import_library("skops.io", EXTRA)
    untrusted = [name for name in skops.get_untrusted_types(file=file) if name not in trusted]
    if untrusted:
        raise InvalidArgumentError(
            f"{file} holds types that skops does not trust: {', '.join(untrusted)}; if you trust whoever "
            "made the file, list them in the option trusted",
            details={"untrusted": untrusted},
        )
    return skops.load(file, trusted=trusted)
