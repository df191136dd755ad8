"""What a host says of itself: the record `HostInfo`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from hostd.records import HostInfo
from hostd.shell.memory.process import rss_of
from hostd.shell.starting import troubles_of
from hostd.version import __version__
from hostd.views import HostSummary
from hostd_workers.wire import frames as wire

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.config.settings import HostConfig
    from hostd.core.queries.queries import Queries
    from hostd.shell.fronts import Fronts
    from hostd.shell.place import Place


class Description:
    """One start of a host; `epoch` is its name, `has_started` and `metrics_port` are set when they come true."""

    def __init__(
        self,
        config: HostConfig,
        kind: str,
        queries: Queries,
        place: Place,
        models_dir: Path | None,
        fronts: Fronts | None,
    ) -> None:
        self.epoch = os.urandom(8).hex()
        self.has_started = False
        self.metrics_port: int | None = None
        self._config = config
        self._kind = kind
        self._queries = queries
        self._place = place
        self._models_dir = models_dir
        self._fronts = fronts
        self._started_s = time.time()

    def welcome(self) -> dict[str, object]:
        """Return the answer to a client's HELLO."""
        return {
            "version": wire.VERSION,
            "supported": list(wire.SUPPORTED_VERSIONS),
            "epoch": self.epoch,
            "batches": True,
            "lanes": self._config.workers.lanes,
            "max_message_bytes": self._config.limits.max_message_bytes,
        }

    @property
    def state(self) -> str:
        """Whether the host starts, serves or stops."""
        return "STOPPING" if self._queries.is_stopping else "READY" if self.has_started else "STARTING"

    def summary(self) -> HostSummary:
        """Return the host and all of its models in short."""
        memory, models = self._queries.memory(), self._queries.summaries()
        sizes = (memory.budget_bytes, memory.free_bytes, memory.measured_bytes, memory.reserved_bytes)
        return HostSummary(self.epoch, self.state, *sizes, models)

    def info(self) -> HostInfo:
        """Return what the host is now."""
        config, queries, has_directory = self._config, self._queries, self._models_dir is not None
        return HostInfo(
            pid=os.getpid(),
            epoch=self.epoch,
            version=__version__,
            protocol=wire.VERSION,
            endpoint=config.endpoint,
            started_s=self._started_s,
            models=queries.model_count(),
            workers=queries.worker_count(),
            rss_bytes=rss_of(os.getpid()) or 0,
            metrics_port=self.metrics_port,
            runtime_dir=str(config.runtime_dir),
            state_dir=str(config.state_dir),
            python=sys.executable,
            models_dir=None if self._models_dir is None else str(self._models_dir),
            degraded=(
                *troubles_of(queries.degraded, config.models, has_directory=has_directory),
                *self._place.troubles,
                *(self._fronts.troubles if self._fronts else ()),
            ),
            name=config.name,
            state=self.state,
            metrics_host=None if self.metrics_port is None else config.metrics.host,
            kind=self._kind,
            fronts=self._fronts.urls if self._fronts else {},
        )
