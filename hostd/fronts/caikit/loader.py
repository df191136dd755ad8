"""caikit's model loader that loads each model in a process of a host.

    model_management:
      loaders:
        default:
          type: HOSTD
          import_class: hostd.fronts.caikit.loader.Loader
          config: {host: {memory: {budget: 8GB}}}

`config.host` are the arguments of `hostd.Host`. Loaders with the same ones share one host, which the first load starts
and the end of the process ends.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from caikit import get_config
from caikit.core.model_management import ModelFinderBase, ModelInitializerBase
from caikit.core.modules import ModuleConfig
from caikit.core.registries import module_backend_classes, module_backend_registry
from caikit.runtime.model_management.core_model_loader import CAIKIT_CORE_LOAD_DURATION_SUMMARY, CoreModelLoader
from caikit.runtime.utils.import_util import clean_lib_names

from hostd.fronts.caikit import codec
from hostd.fronts.caikit.hosting import Hosted, hosted
from hostd.fronts.caikit.proxy import proxy_of, unloaded
from hostd.fronts.caikit.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from caikit.core import ModuleBase

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class Loader(CoreModelLoader):  # type: ignore[misc]
    """Loads models in processes of their own."""

    name = "HOSTD"

    def __init__(self, config: Mapping[str, Any], instance_name: str) -> None:
        super().__init__(config, instance_name)
        self._settings = host_settings(config, "loader")

    @property
    def hosted(self) -> Hosted:
        """The host of this loader's models; started if it is not yet."""
        return hosted(self._settings)

    def load_module_instance(
        self,
        model_path: str,
        model_id: str,
        model_type: str,
        finder: str | ModelFinderBase | None = None,
        initializer: str | ModelInitializerBase | None = None,
    ) -> ModuleBase:
        """Load a model in a worker, and return the object that stands for it.

        What only this process has cannot go there: an initializer that is an object, and no name in the configuration,
        and a module's class that cannot be imported. Then the model is loaded here, as by caikit alone, and a warning
        says so. Raises what caikit's own loader raises in the worker, with its type; CaikitRuntimeException with the
        status of the host's error if the host cannot load it.

        caikit undeploys a model that still loads by removing its files, and then waits for the load. So a load whose
        files are gone does not raise: as of any model that is undeployed, a call of it raises that it is not found.
        """
        path, classes = _existing(model_path), _classes(model_path)
        why_here = _why_here(initializer, classes)
        if why_here is not None:
            _log.warning("%s is loaded in the serving process, because %s", model_id, why_here)
            return super().load_module_instance(model_path, model_id, model_type, finder, initializer)
        options = options_of(model_path, finder, initializer)
        # A model of the same id may still be in use while caikit loads it anew, or be that of another process.
        host_id = f"{model_id}~{os.getpid()}.{next(_numbers)}"
        with CAIKIT_CORE_LOAD_DURATION_SUMMARY.labels(model_type=model_type).time():
            remote = Remote(self.hosted, host_id, model_type, path, options)
            try:
                remote.load()
            except Exception:  # whatever a model raises that cannot read on
                if not classes or _existing(model_path):
                    raise
                _log.warning("%s is not loaded, because %s was removed meanwhile", model_id, model_path)
                return unloaded(remote, classes[0])
            return proxy_of(remote)


def host_settings(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the arguments of the host in the configuration of a loader or sizer. Raises ValueError for other keys."""
    unknown = set(config) - {"host"}
    if unknown:
        raise ValueError(f"the {what} HOSTD has one key in its config, 'host'; unknown: {', '.join(sorted(unknown))}")
    settings: dict[str, Any] = codec.plain(config.get("host") or {})
    return settings


def options_of(
    model_path: str,
    finder: str | ModelFinderBase | None = None,
    initializer: str | None = None,
) -> dict[str, Any]:
    """Return what the worker's loader needs to load a model as this process would.

    A finder that is an object looks here, and the worker gets what it has found.
    """
    config = get_config()
    options: dict[str, Any] = {
        "source": _existing(model_path) or model_path,
        "config": codec.plain(config),
        "libraries": _libraries(model_path),
        "search": [os.path.abspath(entry) for entry in sys.path],  # noqa: PTH100 - "" is the current directory
        "threads": config.runtime.server_thread_pool_size,
    }
    if initializer:
        options["initializer"] = initializer
    if isinstance(finder, ModelFinderBase):
        found = finder.find_model(model_path)
        if found is None:
            raise ValueError(f"Unable to find a ModuleConfig for {model_path}")
        options["module_config"] = codec.plain(found)
    elif finder:
        options["finder"] = finder
    return options


def _existing(model_path: str) -> str | None:
    """Return the absolute path of a model; None if nothing is there, and a finder of caikit's is to know it."""
    return os.path.abspath(model_path) if os.path.exists(model_path) else None  # noqa: PTH100, PTH110 - as text


def _why_here(initializer: str | ModelInitializerBase | None, classes: list[type]) -> str | None:
    """Return why a model can be loaded in this process only; None if a worker can load it."""
    if isinstance(initializer, ModelInitializerBase):
        return "its initializer is an object"
    for kind in classes:
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            return f"no other process can import {kind.__module__}.{kind.__qualname__}"
    return None


def _libraries(model_path: str) -> list[str]:
    """Return the modules to import so that caikit knows the model's: its libraries', its own, and the backends'."""
    names = [name for name in clean_lib_names(get_config().runtime.library or "") if name in sys.modules]
    kinds = [*module_backend_classes().values(), *_classes(model_path)]
    return list(dict.fromkeys([*names, *(kind.__module__ for kind in kinds if kind.__module__ != "__main__")]))


def _classes(model_path: str) -> list[type]:
    """Return the classes that are registered for the module of a model, one for each backend."""
    if not os.path.isdir(model_path):  # noqa: PTH112 - as text
        return []
    try:
        module_id = ModuleConfig.load(model_path).module_id
    except (FileNotFoundError, TypeError, ValueError):  # the worker will say what is wrong with it
        return []
    return [config.impl_class for config in module_backend_registry().get(module_id, {}).values()]
