"""The limits and durations that the core decides by."""

from __future__ import annotations

from hostd_workers.wire.light_dataclass import dataclass


@dataclass(frozen=True)
class CoreConfig:
    """The limits and durations that the core decides by; all in seconds, items or bytes, as the names say."""

    spawn_timeout_s: float = 30.0
    load_timeout_s: float = 600.0
    drain_timeout_s: float = 10.0
    load_retries: int = 0
    retry_backoff_s: float = 0.2
    retry_max_backoff_s: float = 30.0
    models_dir: str | None = None
    lazy_load: bool = False
    lazy_load_retries: int = 2
    max_in_flight: int = 1024
    max_in_flight_bytes: int = 4 << 30
    max_waiting: int = 10_000
    budget_bytes: int | None = None
    admission_timeout_s: float = 60.0
    min_residence_s: float = 1.0
    idle_ttl_s: float = 0.0
    baseline_bytes: int = 0
    cores: int = 1
    cpu_threads: int | None = None
    templates: str | tuple[str, ...] = "off"
    python: str | None = None
    own_python: str = ""
    story_length: int = 64
    stories_kept: int = 256
