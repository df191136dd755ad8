"""What a start finds out before anything runs: the models directory, the core's limits, what an earlier host left."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from hostd.core.config import CoreConfig
from hostd.shell.linux.cores import usable_cores
from hostd_workers.wire.errors import FailedPreconditionError, HostError

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.config.settings import HostConfig, ModelsConfig
    from hostd.shell.deploys.staging import Staging

USUAL_BASELINE_BYTES = 16 * 2**20
"""What a worker holds before it loads its model, until one was measured: 11 MiB are private to a bare interpreter."""

_log = logging.getLogger(__name__)


def models_dir_of(settings: ModelsConfig) -> Path | None:
    """Return the models directory; None if there is none. Raises `FailedPreconditionError` if there must be one."""
    directory = settings.dir
    if directory is not None and directory.is_dir():
        return directory
    trouble = "it is not set" if directory is None else f"{directory} is not a directory"
    if settings.lazy_load:
        raise FailedPreconditionError(
            f"models.lazy_load needs the models directory models.dir, and {trouble}: "
            f"make it, set another (--models-dir DIR), or switch lazy loading off"
        )
    if directory is not None:
        _log.warning("the models directory models.dir is not used: %s", trouble)
    return None


def troubles_of(now: str | None, settings: ModelsConfig, *, has_directory: bool) -> tuple[str, ...]:
    """Return why a host is degraded: what is wrong `now`, or that its models directory was not there at the start."""
    if settings.dir is not None and not has_directory:
        now = (
            f"models.dir is not used: {settings.dir} was no directory when the host started; start it again when it is"
        )
    return () if now is None else (now,)


def core_config(config: HostConfig, models_dir: Path | None, budget_bytes: int | None) -> CoreConfig:
    """Return what the core decides by."""
    templates = config.workers.templates
    return CoreConfig(
        spawn_timeout_s=config.workers.spawn_timeout_s,
        load_timeout_s=config.workers.load_timeout_s,
        drain_timeout_s=config.workers.drain_timeout_s,
        load_retries=config.workers.load_retries,
        retry_backoff_s=config.workers.retry_backoff_s,
        retry_max_backoff_s=config.workers.retry_max_backoff_s,
        models_dir=None if models_dir is None else str(models_dir),
        lazy_load=config.models.lazy_load,
        lazy_load_retries=config.models.lazy_load_retries,
        max_in_flight=config.workers.max_in_flight,
        max_in_flight_bytes=config.limits.max_in_flight_bytes,
        budget_bytes=budget_bytes,
        admission_timeout_s=config.memory.admission_timeout_s,
        min_residence_s=config.memory.min_residence_s,
        idle_ttl_s=config.memory.idle_ttl_s,
        baseline_bytes=USUAL_BASELINE_BYTES,
        cores=usable_cores(),
        cpu_threads=config.workers.cpu_threads,
        templates=templates if isinstance(templates, str) else tuple(templates),
        python=config.workers.python,
        own_python=sys.executable,
    )


def recover(staging: Staging) -> None:
    """Undo what an earlier host left in the middle; blocks on the disk. What cannot be undone is logged."""
    try:
        for line in staging.recover():
            _log.warning("an earlier host was ended in the middle of a deploy: %s", line)
    except HostError as error:
        _log.error("what an earlier host left in staging could not be tidied up: %s", error)
