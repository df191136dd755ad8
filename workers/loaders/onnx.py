"""Loads ONNX models with onnxruntime.

Covers opening a session with its options. How inputs and outputs pass is in `_onnx_model`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hostd_workers.api import Served
from hostd_workers.loaders._common.opening import import_library, model_file
from hostd_workers.loaders._common.reported import reported
from hostd_workers.loaders._common.threads import allotted_threads
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

EXTRA = "onnx"
SUFFIXES = (".onnx",)
METHODS = ("predict", "run", "describe")
# Providers that a build may offer but nobody expects unasked: TensorRT compiles for minutes at the first load, Azure
# sends the inputs to another machine.
_ONLY_ON_REQUEST = {"TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "AzureExecutionProvider"}
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
# What onnxruntime raises for a file that it cannot use. Its other errors are about the machine, and pass through.
_FILE_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")


def load(
    path: str | None,
    /,
    *,
    file: str | None = None,
    providers: Sequence[str | Sequence[Any]] | None = None,
    intra_op_num_threads: int | None = None,
    inter_op_num_threads: int | None = None,
    graph_optimization_level: str | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> Served:
    """Return the model in the file `path`, or in the one ONNX file of the directory `path` (or its file `file`).

    `providers` lists execution providers in order of preference, each a name or `[name, {option: value}]`; all of them
    must start. None takes those of the installed build that need no decision, the CPU last. `intra_op_num_threads` is
    the number of threads of one operation (None: those that the host allots), `inter_op_num_threads` that of operations
    side by side (None: onnxruntime's own default). `graph_optimization_level` is disable, basic, extended, layout or
    all. `session_options` sets other attributes of `onnxruntime.SessionOptions` by name (`enable_mem_pattern: false`,
    `execution_mode: ORT_PARALLEL`); a name with a dot is a configuration entry, its value a string
    (`session.intra_op.allow_spinning: "0"`).

    Served are `predict` (the default), `run` and `describe`.

    Raises MissingDependencyError without onnxruntime, InvalidArgumentError for a damaged file and wrong options,
    FailedPreconditionError if a provider asked for does not start, NotFoundError if nothing is there.
    """
    found = model_file(path, file, SUFFIXES)
    # Its Linux builds report home unless told not to (its Privacy.md); a model host does not do that unasked.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    runtime = import_library("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    _set(options, "intra_op_num_threads", allotted_threads() if intra_op_num_threads is None else intra_op_num_threads)
    _set(options, "inter_op_num_threads", inter_op_num_threads)
    if graph_optimization_level is not None:
        _set(options, "graph_optimization_level", _level(graph_optimization_level))
    for name, value in _entries(session_options):
        if "." in name:
            _configure(options, name, value)
        else:
            _set(options, name, value)
    session = _open(runtime, str(found), options, providers)
    # Imported here because it needs NumPy, which comes with onnxruntime.
    model = import_library("hostd_workers.loaders._models.onnx", EXTRA).OnnxModel(session)
    return Served(model, METHODS, "predict", reported(model.signatures))


def _level(given: object) -> str:
    if not isinstance(given, str) or given not in _LEVELS:
        raise InvalidArgumentError(f"the option graph_optimization_level is one of {', '.join(_LEVELS)}; got {given!r}")
    return _LEVELS[given]


def _entries(session_options: object) -> list[tuple[str, Any]]:
    if session_options is None:
        return []
    if not isinstance(session_options, Mapping) or not all(isinstance(name, str) for name in session_options):
        raise InvalidArgumentError(f"the option session_options must be a map of names, got {session_options!r}")
    return list(session_options.items())


def _configure(options: Any, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"the session option {name!r} takes a string, got {value!r}; put it in quotes")
    options.add_session_config_entry(name, value)


def _set(options: Any, name: str, value: object) -> None:
    if value is None:
        return
    known = _settings_of(options)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise InvalidArgumentError(f"onnxruntime has no session option {name!r}; {hint}")
    kind = type(known[name])
    members = getattr(kind, "__members__", None)
    if members is not None:
        if value not in members:
            raise InvalidArgumentError(f"the option {name} is one of {', '.join(members)}; got {value!r}")
        value = members[value]
    elif type(value) is not kind or (name.endswith("_threads") and isinstance(value, int) and value < 0):
        what = "a number from 0 on" if name.endswith("_threads") else kind.__name__
        raise InvalidArgumentError(f"the option {name} takes {what}, got {value!r}")
    setattr(options, name, value)


def _settings_of(options: Any) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in dir(options) if not name.startswith("_")}
    return {name: value for name, value in values.items() if not callable(value)}


def _open(runtime: Any, file: str, options: Any, providers: Sequence[str | Sequence[Any]] | None) -> Any:
    available = runtime.get_available_providers()
    if providers is None:
        chosen: list[Any] = [name for name in available if name not in _ONLY_ON_REQUEST]
    else:
        chosen = [_provider(entry, available) for entry in _checked_list(providers)]
    state = import_library("onnxruntime.capi.onnxruntime_pybind11_state", EXTRA)
    errors = tuple(getattr(state, name) for name in _FILE_ERRORS if hasattr(state, name))
    try:
        # Without the fallback a provider's wrong option is an error here, not a quiet move to the CPU.
        session = runtime.InferenceSession(file, options, providers=chosen, enable_fallback=0)
    except errors as error:
        raise InvalidArgumentError(f"{file} cannot be loaded: {error}") from error
    except (ValueError, RuntimeError) as error:
        # Not of the file: a configuration entry, or a provider's option.
        raise InvalidArgumentError(f"onnxruntime refused its options, or those of {chosen}: {error}") from error
    started = session.get_providers()
    missing = [name for name in map(_name_of, chosen) if name not in started]
    if providers is not None and missing:
        raise FailedPreconditionError(
            f"onnxruntime could not start {', '.join(missing)} on this machine, only {', '.join(started)}; "
            "its reason is in the model's log"
        )
    return session


def _checked_list(providers: object) -> list[Any]:
    if not isinstance(providers, (list, tuple)) or not providers:
        raise InvalidArgumentError(f"the option providers must be a list of names, got {providers!r}")
    return list(providers)


def _provider(entry: object, available: Sequence[str]) -> str | tuple[str, dict[str, Any]]:
    match entry:
        case str(name):
            checked: str | tuple[str, dict[str, Any]] = name
        case [str(name), dict(settings)]:
            checked = (name, settings)
        case _:
            raise InvalidArgumentError(f"a provider is a name or [name, {{option: value}}], got {entry!r}")
    if name not in available:
        raise InvalidArgumentError(f"onnxruntime has no provider {name!r} here; it has {', '.join(available)}")
    return checked


def _name_of(provider: str | tuple[str, dict[str, Any]]) -> str:
    return provider if isinstance(provider, str) else provider[0]
