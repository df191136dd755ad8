"""The settings of a host that runs: which hold, and what a reload of the configuration file changes.

A reload gathers the settings as the start did, from the same arguments, the same environment and the file as it is
now. What is read whenever it is needed is changed at once (`RELOADABLE`); for the rest the host must be started again.
What `preload` declares is applied by a sync. A file that is wrong changes nothing.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd.config.values import NONE
from hostd.core import events as ev
from hostd.shell import own_log
from hostd.shell.memory.budget import budget_of
from hostd.shell.starting import core_config
from hostd.shell.work.raised import as_host_error
from hostd.units import format_size
from hostd_workers.wire.errors import FailedPreconditionError, UnavailableError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd.config.settings import HostConfig
    from hostd.core.config import CoreConfig
    from hostd.shell.repository.declared import Sources
    from hostd.shell.supervisor import Supervisor

_log = logging.getLogger(__name__)

RELOADABLE = frozenset(
    {
        "log_level",
        "log_format",
        "models.lazy_load_retries",
        "workers.spawn_timeout_s",
        "workers.load_timeout_s",
        "workers.drain_timeout_s",
        "workers.load_retries",
        "workers.retry_backoff_s",
        "workers.retry_max_backoff_s",
        "workers.max_in_flight",
        "workers.cpu_threads",
        "memory.budget",
        "memory.reserve",
        "memory.admission_timeout_s",
        "memory.min_residence_s",
        "memory.idle_ttl_s",
        "limits.max_in_flight_bytes",
    }
)
"""What holds from the moment of a reload, for whatever begins after it; time-outs that run are not changed. A budget
can become another one, but not be switched on or off: what was loaded without one was not measured against it."""


_RELOADED = "%s is reloaded: %s"


class ReloadReport(NamedTuple):
    """What a reload has done: the old and the new value by setting, and the settings that a restart would change."""

    file: str
    changed: dict[str, list[Any]]
    needs_restart: list[str]


class _Found(NamedTuple):
    config: HostConfig
    report: ReloadReport
    budget_bytes: int | None
    budget_source: str


class Settings:
    """The settings of one host."""

    def __init__(self, config: HostConfig, models_dir: Path | None, sources: Sources) -> None:
        self.config = config
        self._models_dir = models_dir
        self._sources = sources
        self._budget_bytes, self.budget_source = budget_of(config.memory.budget, config.memory.reserve)
        self._say_budget()

    def for_core(self) -> CoreConfig:
        """Return what the core decides by."""
        return core_config(self.config, self._models_dir, self._budget_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are in force, in the shape of the configuration file."""
        settings: dict[str, Any] = json.loads(self.config.to_json())
        return settings

    async def reload(self, supervisor: Supervisor) -> ReloadReport:
        """Read the file again, in a thread, apply what can be, and return that. Raises why nothing was changed."""
        try:
            found = await self._found(supervisor)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the host goes on
            told = as_host_error(error, "the configuration cannot be read")
            _log.error("the configuration is not reloaded, and nothing is changed: %s", told)
            raise told from None
        self._apply(found)
        supervisor.emit_later(ev.SettingsChanged(self.for_core()))
        return found.report

    async def _found(self, supervisor: Supervisor) -> _Found:
        if supervisor.core.queries.is_stopping:
            raise UnavailableError("the host is shutting down")
        found: _Found = await supervisor.read("settings", self._find)
        return found

    def _find(self) -> _Found:
        """Return what the file makes of the settings. Raises `HostError`."""
        from hostd.config.sources import checked, gather  # noqa: PLC0415 - brings in what a start does without

        file = self._sources.file
        if file is None:
            raise FailedPreconditionError(
                "this host was started without a configuration file, so there is nothing to read again: "
                "start it with hostd serve --config FILE"
            )
        wanted = gather(self._sources.arguments, file=Path(file), environment=True).config
        changed, needs_restart = {}, []
        merged = json.loads(self.config.to_json())
        old, new = _flat(self.config), _flat(wanted)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) == new.get(name) or name.startswith("preload."):  # a sync sees to what that declares
                continue
            if name in RELOADABLE and not (name == "memory.budget" and NONE in (old[name], new[name])):
                changed[name] = [old[name], new[name]]
                *sections, last = name.split(".")
                (merged[sections[0]] if sections else merged)[last] = new[name]
            else:
                needs_restart.append(name)
        config = checked(merged)  # old and new settings together may be wrong
        return _Found(
            config, ReloadReport(file, changed, needs_restart), *budget_of(config.memory.budget, config.memory.reserve)
        )

    def _apply(self, found: _Found) -> None:
        report = found.report
        self.config = found.config
        told = "; ".join(f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in report.changed.items())
        # At the old level or the new one, whichever shows it: a reload that makes the log quieter is told, too.
        is_shown = _log.isEnabledFor(logging.INFO)
        if is_shown:
            _log.info(_RELOADED, report.file, told or "nothing changes")
        own_log.configure(found.config.log_level, found.config.log_format)
        if not is_shown:
            _log.info(_RELOADED, report.file, told or "nothing changes")
        if report.needs_restart:
            _log.warning("changed after a restart of the host only: %s", ", ".join(report.needs_restart))
        if found.budget_bytes != self._budget_bytes:
            self._budget_bytes, self.budget_source = found.budget_bytes, found.budget_source
            self._say_budget()

    def _say_budget(self) -> None:
        _log.info("the memory budget is %s: %s", format_size(self._budget_bytes), self.budget_source)


def _flat(config: HostConfig) -> dict[str, Any]:
    """Return every setting by its dotted name; plugins and what they are made with count as one setting each."""
    found: dict[str, Any] = {}
    for name, value in json.loads(config.to_json()).items():
        found |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
