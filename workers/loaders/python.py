"""Loads a model that its author wrote in Python: a `model.py`, or a function in an installed package.

Covers executing the file as a real module and calling its `load`. Does not cover which methods are served
(`hostd_workers.calls.runtime`).
"""

from __future__ import annotations

import itertools
import keyword
import os
import re
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd_workers.loaders._common.opening import call_load, existing, readable, resolve
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from types import ModuleType

FILE = "model.py"
FUNCTION = "load"


def load(path: str | None, /, *, module: str | None = None, **options: Any) -> object:
    """Return what the author's `load(path, **options)` returns: the model, or a `hostd_workers.api.Served`.

    That `load` is in the `model.py` of the directory `path`, in `path` itself if that is a Python file, or it is
    `module`, written `package.module:attribute` (`:load` may be left out). Files beside `model.py` can be imported: the
    model's directory comes before everything on `sys.path` but the standard library.

    Raises InvalidArgumentError if there is no such file, module or function, or if it does not take the options or
    returns None; NotFoundError if nothing is at `path`. What the author's code raises passes through untouched.
    """
    if module is not None:
        if not isinstance(module, str):
            raise InvalidArgumentError(f"the option module must be text such as 'package.module:load', got {module!r}")
        if path and Path(path).is_dir():
            _search_first(Path(path).absolute())
        function, name = resolve(module, default=FUNCTION), module
    else:
        file = _source(path)
        _search_first(file.parent)
        function, name = getattr(_execute(file), FUNCTION, None), f"{FUNCTION} in {file}"
        if function is None:
            raise InvalidArgumentError(f"{file} has no {FUNCTION}; define {FUNCTION}(path, **options) in it")
    return call_load(function, path, options, name=name)


def _source(path: str | None) -> Path:
    place = existing(path, needs=f"a directory with a {FILE}, a Python file, or the option module")
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise InvalidArgumentError(f"there is no {FILE} in {path}; write one with a function {FUNCTION}(path)")
    if file.suffix != ".py":
        raise InvalidArgumentError(f"{file} is no Python file; give its directory with a {FILE}, or the option module")
    return readable(file)


def _search_first(directory: Path) -> None:
    # A `queue.py` or `random.py` of the model's would be what every library gets that is imported from now on. So the
    # standard library comes before it, on the path itself, because processes that the model spawns take that over.
    library = Path(os.__file__).parent
    ours = [entry for entry in sys.path if Path(entry) in (library, library / "lib-dynload")]
    sys.path[:0] = [*ours, str(directory)]


def _execute(file: Path) -> ModuleType:
    name = _free_name(file.stem)
    source = SourceFileLoader(name, str(file))
    spec = ModuleSpec(name, source, origin=str(file))
    spec.has_location = True  # gives the module its __file__, which inspect and tracebacks need
    module = module_from_spec(spec)
    # Before execution, as the import system does it: dataclasses look their module up while it is being executed.
    sys.modules[name] = module
    try:
        source.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _free_name(stem: str) -> str:
    # The file's own name if it can be had: then `import model` elsewhere in the model's directory, or in a process that
    # the model spawns, finds the same module under the same name.
    base = re.sub(r"\W", "_", stem)
    if not base.isidentifier() or keyword.iskeyword(base):
        base = f"model_{base}"
    names = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(2)))
    return next(name for name in names if name not in sys.modules and name not in sys.stdlib_module_names)
