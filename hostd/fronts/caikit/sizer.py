"""caikit's model sizer that knows what models take, because the host has measured it.

    model_management:
      sizers:
        default: {type: HOSTD, import_class: hostd.fronts.caikit.sizer.Sizer}

caikit asks for a size when a load begins. The answer is the peak of the last load of the same content that the host has
measured, on this machine, also before a restart; for content that was never loaded, the host's estimate of its files.
The `config` must be that of the loader, so that both have the same host.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import grpc
from caikit.runtime.model_management.model_sizer_base import ModelSizerBase
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

import hostd
from hostd.fronts.caikit import raised
from hostd.fronts.caikit.hosting import FINDER, hosted
from hostd.fronts.caikit.loader import host_settings, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sizer(ModelSizerBase):  # type: ignore[misc]
    """Says what a model takes, as measured."""

    name = "HOSTD"

    def __init__(self, config: Mapping[str, Any], instance_name: str) -> None:
        super().__init__(config, instance_name)
        self._settings = host_settings(config, "sizer")

    def get_model_size(self, model_id: str, local_model_path: str, model_type: str) -> int:
        """Return the bytes of memory that a model takes. Raises CaikitRuntimeException if nothing is at the path."""
        if not os.path.exists(local_model_path):  # noqa: PTH110 - as text
            message = f"the size of model {model_id!r} is not known: there is nothing at {local_model_path}"
            raise CaikitRuntimeException(grpc.StatusCode.NOT_FOUND, message)
        host = hosted(self._settings)
        path = os.path.abspath(local_model_path)  # noqa: PTH100 - as text
        plan = host.client.plan_load(f"{model_id}~", path, model_type, finder=FINDER, options=options_of(path))
        try:
            return host.wait(plan).need_bytes
        except hostd.HostError as error:
            made = raised.of_host(error)
            raise made from made.__cause__
