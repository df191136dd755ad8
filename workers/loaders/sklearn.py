"""Loads scikit-learn estimators, and others with their interface, from joblib, pickle and skops files.

A joblib or pickle file is code: loading it runs whatever its author put there. A skops file is not; types that skops
does not trust must be named in the option `trusted`.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served
from hostd_workers.loaders._common.opening import check_binding, import_library, model_file, read_model
from hostd_workers.loaders._common.reported import reported
from hostd_workers.loaders._common.results import travelling
from hostd_workers.loaders._models.estimator import signatures_of
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from hostd_workers.api import Signature

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
# Libraries of estimators that are often saved with joblib, and the extra of this package that brings each.
_EXTRAS = {"sklearn": EXTRA, "scipy": EXTRA, "numpy": EXTRA, "xgboost": "xgboost", "lightgbm": "lightgbm"}
_VECTORIZERS = "sklearn.feature_extraction"
_OF_TEXTS = "sklearn.feature_extraction.text"
_CHECKING = (
    _VECTORIZERS,
    "sklearn.base",
    "sklearn.compose._column_transformer",
    "sklearn.impute",
    "sklearn.preprocessing._encoders",
    "sklearn.utils._indexing",
)
"""Modules that compare what callers pass with the fit, besides the validation."""


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
    model = EstimatorModel(estimator)
    return Served(model, methods, default, reported(lambda: model.signatures(methods)))


class EstimatorModel:
    """An estimator with methods that take and return what can travel.

    The first argument may be an array, a nested list, or a mapping of column names to columns of equal length, which
    becomes a pandas data frame with the columns in the order of the fit. So does a list of records (maps of column
    names to values) if the estimator was fitted with names, or is a pipeline with a ColumnTransformer that was. An
    estimator that begins with a vectorizer of texts or maps gets what is passed. Results are as `_results.travelling`
    says.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        names = getattr(estimator, "feature_names_in_", None)
        self._names = None if names is None else [str(name) for name in names]
        steps = _steps(estimator)
        self._is_of_records = self._names is not None or any(
            hasattr(step, "transformers_") and hasattr(step, "feature_names_in_") for step in steps
        )
        self._vectorizer = type(steps[0]) if type(steps[0]).__module__.startswith(_VECTORIZERS) else None
        # Imported here because it needs NumPy, which comes with scikit-learn.
        self._columns = import_library("hostd_workers.loaders._common.columns", EXTRA)

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

    def signatures(self, methods: Sequence[str]) -> dict[str, Signature]:
        """Return what the estimator knows of what its methods take and return."""
        takes_texts = self._vectorizer is not None and self._vectorizer.__module__ == _OF_TEXTS
        if self._vectorizer is not None and not takes_texts:
            return {}  # of maps
        return signatures_of(self._estimator, methods, takes_texts=takes_texts)

    def _served(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)
        def served(*args: Any, **kwargs: Any) -> object:
            if args:
                args = (self._table(args[0]), *args[1:])
            elif "X" in kwargs:
                kwargs["X"] = self._table(kwargs["X"])
            try:
                result = method(*args, **kwargs)
            except (TypeError, ValueError, AttributeError) as error:
                check_binding(method, args, kwargs, name=name)
                if _is_about_input(error):
                    raise self._refusal(name, error) from error
                raise
            return travelling(result)

        return served

    def _refusal(self, method: str, error: Exception) -> InvalidArgumentError:
        width = getattr(self._estimator, "n_features_in_", None)
        if method == "inverse_transform" or not isinstance(width, int):  # that takes what transform returns
            return InvalidArgumentError(f"{method} refused its input: {error}")
        takes = f"rows of {width} features"
        if self._names is not None:
            takes = f"the columns {self._names}, as a map of columns or a list of records"
        return InvalidArgumentError(
            f"{method} refused its input: {error}; the model takes {takes}",
            details=self._columns.expected(self._names, width),
        )

    def _table(self, data: Any) -> Any:
        if self._vectorizer is not None:
            if isinstance(data, Mapping) and self._vectorizer.__module__ == _OF_TEXTS:  # it would read the names
                raise InvalidArgumentError(f"the model takes a list of texts ({self._vectorizer.__name__}), got a map")
            return data
        if self._is_of_records:
            data = self._columns.columns_of(data, self._names)
        # A mapping of single values stays one: it is a sample for DictVectorizer and its kind.
        if not isinstance(data, Mapping) or not all(_is_column(column) for column in data.values()):
            return data
        return self._columns.frame(self._columns.ordered(data, self._names), EXTRA)


def _steps(estimator: Any) -> list[Any]:
    pipeline = getattr(sys.modules.get("sklearn.pipeline"), "Pipeline", ())  # a pipeline's file has imported it
    return [step for _, step in estimator.steps] if isinstance(estimator, pipeline) else [estimator]


def _is_about_input(error: Exception) -> bool:
    # scikit-learn raises ValueError for everything. What its validation raises is the caller's to mend, and what else
    # compares the input with the fit; except for NotFittedError (also an AttributeError), which is the model's.
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, AttributeError):
        # Of a text or a map that is none; an attribute that the estimator itself lacks is one of another version.
        return frames[-1].startswith(_VECTORIZERS) and not hasattr(getattr(error, "obj", None), "get_params")
    return "sklearn.utils.validation" in frames or frames[-1].startswith(_CHECKING)


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
