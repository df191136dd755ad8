"""caikit's runtime in this process, with models in processes of a host, and the same modules loaded by caikit alone."""

import gc
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("caikit.core", reason="the extra `caikit`, as .ci/caikit.sh installs it")
pytest.importorskip("caikit.runtime.model_management.model_manager", reason="the extra `caikit`")

sys.path.append(str(Path(__file__).parent / "library"))

import caikit
import grpc
import hostd_caikit_sample as sample
from caikit.core import MODEL_MANAGER
from caikit.core.data_model import DataStream
from caikit.runtime.model_management.model_manager import ModelManager
from caikit.runtime.types.aborted_exception import AbortedException
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException
from caikit.runtime.work_management.abortable_context import AbortableContext, ActionAborter, ThreadInterrupter

LIBRARY = sys.path[-1]

LOADER = {"type": "HOSTD", "import_class": "hostd.fronts.caikit.loader.Loader", "config": {"host": {}}}
SIZER = {"type": "HOSTD", "import_class": "hostd.fronts.caikit.sizer.Sizer", "config": {"host": {}}}


def configure(**management):
    """Have caikit serve the sample library; its runtime's manager of models, which there is once, is made anew."""
    runtime = {"library": sample.__name__, "local_models_dir": "", "server_thread_pool_size": 8}
    caikit.configure(config_dict={"runtime": runtime, "log": {"level": "error"}, "model_management": management})
    ModelManager._ModelManager__instance = None
    return ModelManager.get_instance()


def saved(module, directory, **extra):
    """Save a module and return its path."""
    module.save(str(directory), **extra)
    return str(directory)


def alone(path):
    """Load a model as caikit does it alone."""
    return MODEL_MANAGER.load(path)


def outcome(function, *args, **kwargs):
    """Return what caikit would see of a call: what is returned, or what is raised."""
    try:
        answer = function(*args, **kwargs)
        if not isinstance(answer, sample.Reply):
            answer = [item.to_json() for item in answer]
    except Exception as error:  # noqa: BLE001 - whatever is raised is compared
        names = {kind.__name__ for kind in type(error).__mro__ if not kind.__module__.startswith(sample.__name__)}
        return names, str(error), getattr(error, "status_code", None), getattr(error, "message", None)
    return answer if isinstance(answer, list) else answer.to_json()


def held_bytes():
    """Return what this process and all its descendants have in memory, shared pages counted once (PSS)."""
    gc.collect()
    here = psutil.Process()
    return sum(process.memory_full_info().pss for process in (here, *here.children(recursive=True)))


__all__ = [
    "LIBRARY",
    "LOADER",
    "SIZER",
    "AbortableContext",
    "AbortedException",
    "ActionAborter",
    "CaikitRuntimeException",
    "DataStream",
    "ThreadInterrupter",
    "alone",
    "caikit",
    "configure",
    "grpc",
    "held_bytes",
    "outcome",
    "sample",
    "saved",
]
