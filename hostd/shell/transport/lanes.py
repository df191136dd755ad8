"""The host's part of direct lanes: where each worker listens, with which secret, and the page of its figures.

A worker listens at a path in the runtime directory, which only our user can enter. What a client must show there is
random and of this worker alone, so that a path that is used again leads nobody to another model.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from hostd import paths
from hostd.shell.work.component import Component
from hostd_workers.wire.lane import page
from hostd_workers.wire.light_dataclass import dataclass
from hostd_workers.wire.template import PAGE_FD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hostd.config.settings import HostConfig
    from hostd.core.values import ModelId, WorkerId
    from hostd_workers.wire.lane.figures import Figures, MethodFigures

_SECRET_BYTES: Final = 16


class WorkerLane:
    """What a worker's page says, for the core; `address` is None if it takes calls from the host alone."""

    def __init__(self, address: dict[str, object] | None, fd: int, methods: Iterable[str]) -> None:
        """Map the page. Raises `OSError`."""
        self.address = address
        self._page = page.Page(fd, sorted(methods))

    def figures(self) -> Figures:
        """Return the figures of the moment."""
        return self._page.figures()

    def durations_s(self) -> list[float]:
        """Return how long the last calls took."""
        return self._page.durations_s()

    def by_method(self) -> list[MethodFigures]:
        """Return the calls of each method, of some together (None)."""
        return self._page.by_method()


@dataclass(frozen=True)
class _Place:
    """Where a worker listens (None: it does not), what a client must show there, and the descriptor of its page."""

    path: Path | None
    secret: bytes
    fd: int


class LanePlaces(Component):
    """Where the workers of a host listen."""

    def __init__(self, config: HostConfig) -> None:
        self._directory = config.runtime_dir
        self._is_on = config.workers.lanes
        self._spin_s = config.workers.spin_s
        self._limits = {
            "max_in_flight": config.workers.max_in_flight,
            "max_in_flight_bytes": config.limits.max_in_flight_bytes,
            "max_message_bytes": config.limits.max_message_bytes,
        }
        self._places: dict[WorkerId, _Place] = {}

    def close(self) -> None:
        """Forget all of them."""
        for worker_id in list(self._places):
            self.forget(worker_id)

    def new(self, worker_id: WorkerId) -> int | None:
        """Return the descriptor of the page for a worker that is about to be spawned; None if it gets none."""
        path = self._directory / f"{paths.LANE_SOCKETS}{worker_id}"
        has_lane = self._is_on and len(os.fsencode(path)) <= paths.SOCKET_PATH_MAX_BYTES
        with contextlib.suppress(OSError):  # without a descriptor for it, calls go by the host
            self._places[worker_id] = _Place(path if has_lane else None, os.urandom(_SECRET_BYTES), page.new())
            return self._places[worker_id].fd
        return None

    def page_of(self, worker_id: WorkerId) -> int | None:
        """Return which descriptor of a worker's is its page; None if it has none."""
        return PAGE_FD if worker_id in self._places else None

    def told(self, worker_id: WorkerId, model_id: ModelId) -> dict[str, Any] | None:
        """Return what a worker is told of its lane with what to load; None if it has none."""
        place = self._places.get(worker_id)
        if place is None or place.path is None:
            return None
        return {
            "path": str(place.path),
            "secret": place.secret,
            "model_id": model_id,
            "spin_s": self._spin_s,
            **self._limits,
        }

    def opened(self, worker_id: WorkerId, methods: Iterable[str], *, listens: bool) -> WorkerLane | None:
        """Return the lane of a worker that says whether it listens; None if not even its page can be used."""
        place = self._places.get(worker_id)
        if place is None:
            return None
        with contextlib.suppress(OSError):
            address = {"path": str(place.path), "secret": place.secret, "worker": worker_id, "spin_s": self._spin_s}
            address["max_in_flight"] = self._limits["max_in_flight"]
            return WorkerLane(address if listens and place.path else None, place.fd, methods)
        return None

    def forget(self, worker_id: WorkerId) -> None:
        """Remove what is left of a worker that has ended."""
        place = self._places.pop(worker_id, None)
        if place is not None:
            os.close(place.fd)
            if place.path is not None:
                with contextlib.suppress(OSError):
                    place.path.unlink()
