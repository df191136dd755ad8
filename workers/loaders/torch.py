"""Loads PyTorch models that bring their own code: TorchScript archives and exported programs (`torch.export`).

A file of weights alone, or of a pickled module, is refused with what it is: the first says nothing of the model's code,
and loading the second would run what its author put there. Both need a `model.py`. An exported program may hold pickled
constants too, which PyTorch loads: trust whoever made the file. How inputs and outputs pass is in `_torch_models`.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from enum import Enum
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served
from hostd_workers.loaders._common.opening import import_library, model_file, read_model
from hostd_workers.loaders._common.reported import reported
from hostd_workers.loaders._common.torch import checked_device, import_torch
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "torch"
SUFFIXES = (".pt2", ".pt", ".pth", ".ts", ".torchscript")
METHODS = ("predict", "describe")
_EXTRAS = {"torch": EXTRA, "numpy": EXTRA}
_NAMES_SHOWN = 3


class Kind(Enum):
    """What a file is, as the names in its archive tell (see torch/jit/_serialization and torch/export/pt2_archive)."""

    SCRIPT = "TorchScript"
    EXPORTED = "an exported program"
    COMPILED = "a package compiled by AOTInductor"
    PICKLED = "a file of torch.save"


def load(path: str | None, /, *, file: str | None = None, device: str = "cpu", threads: int | None = None) -> Served:
    """Return the model in the file `path`, or in the one model file of the directory `path` (or its file `file`).

    What counts is the content, not the suffix. `device` is where it runs (`cpu`, `cuda:0`, `mps`); `threads` is the
    number of threads of one operation on the CPU (None: those that the host allots).

    Served are `predict` (the default) and `describe`.

    Raises MissingDependencyError without torch or NumPy, InvalidArgumentError for a damaged file, one without code and
    wrong options, FailedPreconditionError if the device cannot be used, NotFoundError if nothing is there.
    """
    found = model_file(path, file, SUFFIXES)
    torch = import_torch(threads, EXTRA)
    where = checked_device(torch, device)
    kind = _kind(found)
    if kind is Kind.COMPILED:
        raise InvalidArgumentError(
            f"{found} is {kind.value}, which runs only where it was compiled; save the exported program itself with "
            "torch.export.save, or write a model.py"
        )
    if kind is Kind.PICKLED:
        raise InvalidArgumentError(_reason_against(torch, found))
    module = read_model(found, functools.partial(_OPEN[kind], torch, where), _EXTRAS)
    # Imported here because they need NumPy, which torch does not bring.
    models = import_library("hostd_workers.loaders._models.torch", EXTRA)
    tensors = import_library("hostd_workers.loaders._common.tensors", EXTRA).Tensors(torch, where)
    model = (models.ScriptModel if kind is Kind.SCRIPT else models.ExportedModel)(torch, module, tensors)
    return Served(model, METHODS, "predict", reported(model.signatures))


def _kind(found: Path) -> Kind:
    if not zipfile.is_zipfile(found):
        return Kind.PICKLED
    with zipfile.ZipFile(found) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return Kind.SCRIPT
    if any("aotinductor" in name for name in names):
        return Kind.COMPILED
    # The second one is how PyTorch wrote them before 2.8.
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return Kind.EXPORTED
    return Kind.PICKLED


def _open_script(torch: Any, device: Any, found: Path) -> Any:
    return torch.jit.load(str(found), map_location=device).eval()


def _open_exported(torch: Any, device: Any, found: Path) -> Any:
    with found.open("rb") as stream:  # a file by name must end in .pt2
        program = torch.export.load(stream)
    if device.type != "cpu":
        program = import_library("torch.export.passes", EXTRA).move_to_device_pass(program, device)
    return program


_OPEN = {Kind.SCRIPT: _open_script, Kind.EXPORTED: _open_exported}


def _reason_against(torch: Any, found: Path) -> str:
    """Return why a pickled file is not loaded; it is looked into without running what it holds."""
    try:
        content = torch.load(found, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(found))
    except UnpicklingError as error:
        if "GLOBAL" not in str(error):  # of what a pickle names, and only what is allowed may be made
            return f"{found} cannot be loaded: it is no file of PyTorch, or a damaged one"
        return (
            f"{found} holds a pickled Python object, and loading it would run its code; export the model with "
            "torch.export.save or torch.jit.save, or write a model.py that loads this file"
        )
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its bytes spell
        return f"{found} cannot be loaded: {type(error).__name__}: {str(error).partition('. ')[0]}"
    holds = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        names = [str(name) for name in content]
        more = f", and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        holds = f"a bare state dict ({', '.join(names[:_NAMES_SHOWN])}{more})"
    return (
        f"{found} holds {holds}, which does not say what the model computes; write a model.py that builds the module "
        "and calls load_state_dict(torch.load(file, weights_only=True)), or save the model with torch.export.save or "
        "torch.jit.save"
    )
