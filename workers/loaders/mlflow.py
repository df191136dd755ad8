"""Loads MLflow models (a directory with an `MLmodel` file) through their pyfunc flavour.

Such a model is code: loading it runs what its author put there. What it needs beyond MLflow (`requirements.txt` beside
it) must be installed in the worker's interpreter; nothing is installed here, and no tracking server is asked.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served, Signature, Tensor
from hostd_workers.loaders._common.opening import existing, first_lines, import_library, read_model
from hostd_workers.loaders._common.reported import reported, signature, sizes
from hostd_workers.loaders._common.results import travelling
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.signatures import datatype_of

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "mlflow"
FILE = "MLmodel"
METHODS = ("predict", "describe")
_EXTRAS = {"mlflow": EXTRA, "pandas": EXTRA, "numpy": EXTRA, "sklearn": "sklearn", "skops": "sklearn"}
_EXTRAS |= {name: name for name in ("torch", "transformers", "xgboost", "lightgbm")} | {"onnxruntime": "onnx"}
# MLflow reports its use home, and keeps runs and traces in the current directory, unless told not to.
_SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
# Codes of MlflowException that are about what was passed.
_DATATYPES = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}
_DATATYPES |= {"string": "BYTES", "binary": "BYTES"}
"""Of the types of columns (mlflow.types.DataType); instants, lists and maps have none."""
_CALLERS_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


def load(path: str | None, /, *, model_config: Mapping[str, Any] | None = None) -> Served:
    """Return the model in the directory `path`; `model_config` is handed to a model that takes a configuration.

    Served are `predict` (the default) and `describe`.

    Raises MissingDependencyError without mlflow or pandas, InvalidArgumentError if the directory has no `MLmodel` or is
    damaged, FailedPreconditionError for a module that the model needs, NotFoundError if nothing is there.
    """
    found = existing(path, needs=f"a directory with a file {FILE}")
    if not (found / FILE).is_file():
        raise InvalidArgumentError(f"there is no {FILE} in {found}; give the directory that mlflow saved a model to")
    if model_config is not None and not isinstance(model_config, Mapping):
        raise InvalidArgumentError(f"the option model_config must be a map, got {model_config!r}")
    os.environ.update(_SILENT)
    import_library("pandas", EXTRA)
    pyfunc = import_library("mlflow.pyfunc", EXTRA)
    import_library("mlflow.tracing", EXTRA).disable()
    model = read_model(found, functools.partial(_read, pyfunc, model_config), _EXTRAS)
    served = PyfuncModel(model, import_library("mlflow.exceptions", EXTRA).MlflowException)
    return Served(served, METHODS, "predict", reported(served.signatures))


def _read(pyfunc: Any, model_config: Mapping[str, Any] | None, found: Path) -> Any:
    return pyfunc.load_model(str(found), model_config=None if model_config is None else dict(model_config))


class PyfuncModel:
    """An MLflow model that takes arrays, nested lists, columns by name, or records."""

    def __init__(self, model: Any, error: type[Exception]) -> None:
        self._model = model
        self._error = error
        schema = model.metadata.get_input_schema()
        self._names = schema.input_names() if schema is not None and schema.has_input_names() else None
        self._is_table = schema is None or not schema.is_tensor_spec()
        # Imported here because it needs NumPy, which comes with mlflow.
        self._columns = import_library("hostd_workers.loaders._common.columns", EXTRA)

    def __repr__(self) -> str:
        return f"PyfuncModel(inputs={self._names}, flavors={sorted(self._model.metadata.flavors)})"

    def predict(self, data: Any, /, params: Mapping[str, Any] | None = None) -> Any:
        """Return the model's predictions.

        A map of columns of equal length becomes a pandas data frame; so do rows (an array of two dimensions, or nested
        lists) and records if the model's signature names its columns. Anything else reaches the model as it is, and is
        checked against its signature if it has one. A data frame that the model returns comes as a map of columns, a
        series as an array. `params` are the parameters that the signature declares.
        """
        if params is not None and not isinstance(params, Mapping):
            raise InvalidArgumentError(f"params must be a map, got {type(params).__name__}")
        try:
            result = self._model.predict(self._table(data), params=None if params is None else dict(params))
        except self._error as error:
            if getattr(error, "error_code", None) in _CALLERS_ERRORS:
                raise InvalidArgumentError(f"mlflow refused the input: {first_lines(error)}") from error
            raise
        if hasattr(result, "columns") and hasattr(result, "to_numpy"):
            return {str(name): travelling(result[name]) for name in result.columns}
        return travelling(result)

    def signatures(self) -> dict[str, Signature]:
        """Return what MLflow's signature says, if the model has one."""
        metadata = self._model.metadata
        taken = metadata.get_input_schema()
        if taken is None:
            return {}
        inputs = _tensors(taken, "data")
        passing = "map" if taken.has_input_names() else "array"
        if passing == "array" and len(inputs) > 1:  # columns without names: one table
            inputs = [Tensor("data", inputs[0].datatype, (-1, len(inputs)))]
        returned = metadata.get_output_schema()
        return {"predict": signature(inputs, [] if returned is None else _tensors(returned, "output"), passing, 0)}

    def describe(self) -> dict[str, Any]:
        """Return the signature's inputs, outputs and params as MLflow writes them, and the flavours."""
        signature = self._model.metadata.signature
        return {
            "signature": None if signature is None else signature.to_dict(),
            "flavors": sorted(self._model.metadata.flavors),
        }

    def _table(self, data: Any) -> Any:
        if not self._is_table:
            return data
        if self._names is not None:
            data = self._columns.columns_of(data)
        if isinstance(data, Mapping):
            if not data or not all(_is_column(column) for column in data.values()):
                return data
            # Not in the signature's order, and with columns that it calls optional or does not know: MLflow sees to it.
            return self._columns.frame(self._columns.ordered(data, None), EXTRA)
        if self._names is None or not _is_rows(data):
            return data
        width = len(data[0])
        if width != len(self._names):
            raise InvalidArgumentError(f"the model has the columns {self._names}, got rows of {width}")
        if hasattr(data, "ndim"):
            columns = [data[:, place] for place in range(width)]
        elif any(len(row) != width for row in data):
            raise InvalidArgumentError(f"the rows must be of equal length, {width}")
        else:
            columns = [[row[place] for row in data] for place in range(width)]
        return self._columns.frame(dict(zip(self._names, columns, strict=True)), EXTRA)


def _tensors(schema: Any, name: str) -> list[Tensor]:
    return [
        Tensor(
            str(spec.name or (name if len(schema.inputs) == 1 else f"{name}_{place}")),
            *_kind_of(spec),
            not spec.required,
        )
        for place, spec in enumerate(schema.inputs)
    ]


def _kind_of(spec: Any) -> tuple[str, tuple[int, ...] | None]:
    if hasattr(spec, "shape"):
        return datatype_of(spec.type.str), sizes(spec.shape)
    return _DATATYPES.get(getattr(spec.type, "name", ""), ""), (-1,)


def _is_column(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, Mapping))


def _is_rows(data: Any) -> bool:
    if hasattr(data, "ndim"):
        return bool(data.ndim == 2 and len(data))
    return isinstance(data, (list, tuple)) and bool(data) and all(isinstance(row, (list, tuple)) for row in data)
