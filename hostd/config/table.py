# Generated from hostd/config/settings.py by .ci/settings_table.py: edit that one.
"""Every setting: its default, and for those that are plain how a value is read, so that pydantic is not needed for it.

`hostd.config.outright` reads values by it, and `hostd.config.received` knows by it what is a path.
"""

from __future__ import annotations

from typing import Any, Final

from hostd_workers.wire.light import NamedTuple


class Setting(NamedTuple):
    """One setting.

    `kind` is its type, "" if only pydantic can tell whether a value is right; `read` the function of
    `hostd.config.values` that takes the value before. `bounds` are what the value, or the length of a text, must be
    compared with, by the name of the comparison in `operator`; `choices` are what it may be, and `pattern` is what a
    text must match.
    """

    default: Any
    kind: str = ""
    read: str = ""
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    pattern: str = ""

    @property
    def is_path(self) -> bool:
        """Whether its values are paths."""
        return self.kind == "path"


SETTINGS: Final[dict[str, Setting | dict[str, Setting]]] = {
    "models": {
        "dir": Setting(None, kind="path", read="directory"),
        "lazy_load": Setting(False, kind="bool", read="switch"),
        "poll_period_s": Setting(10.0, kind="float", read="period", bounds=(("ge", 0), ("le", 604800))),
        "write_quiet_period_s": Setting(2.0, kind="float", read="quiet_period", bounds=(("ge", 0), ("le", 604800))),
        "completion_marker": Setting(None),
        "load_on_start": Setting(True, kind="bool", read="switch"),
        "wait_for_initial_loads": Setting(False, kind="bool", read="switch"),
        "lazy_load_retries": Setting(2, kind="int", read="number", bounds=(("ge", 0), ("le", 100))),
    },
    "workers": {
        "python": Setting(None),
        "spawn_timeout_s": Setting(30.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "load_timeout_s": Setting(600.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "drain_timeout_s": Setting(10.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "load_retries": Setting(0, kind="int", read="number", bounds=(("ge", 0), ("le", 100))),
        "retry_backoff_s": Setting(0.2),
        "retry_max_backoff_s": Setting(30.0),
        "max_in_flight": Setting(1024, kind="int", read="number", bounds=(("ge", 1), ("le", 1000000))),
        "lanes": Setting(True, kind="bool"),
        "spin_s": Setting(0.0, kind="float", read="number", bounds=(("ge", 0), ("le", 0.01))),
        "templates": Setting("auto"),
        "cpu_threads": Setting(None, kind="int", read="number", bounds=(("ge", 1), ("le", 4096))),
        "log_bytes": Setting(1048576, kind="int", read="size", bounds=(("ge", 4096),)),
    },
    "memory": {
        "budget": Setting("auto", kind="share", read="budget"),
        "reserve": Setting("10%", kind="share", read="share"),
        "admission_timeout_s": Setting(60.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "min_residence_s": Setting(1.0, kind="float", read="period", bounds=(("ge", 0), ("le", 604800))),
        "idle_ttl_s": Setting(0.0, kind="float", read="period", bounds=(("ge", 0), ("le", 604800))),
        "assumed_size": Setting(268435456, kind="int", read="size", bounds=(("ge", 4096),)),
        "remember": Setting("user", kind="str", choices=("user", "host", "none")),
        "sample_period_s": Setting(5.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "max_sample_period_s": Setting(60.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "watch_period_s": Setting(0.1, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
        "estimate_timeout_s": Setting(10.0, kind="float", read="number", bounds=(("gt", 0), ("le", 604800))),
    },
    "metrics": {
        "port": Setting(None, kind="int", read="number", bounds=(("ge", 0), ("le", 65535))),
        "host": Setting("127.0.0.1", kind="str", bounds=(("ge", 1),)),
    },
    "fronts": {
        "http": Setting(None),
        "grpc": Setting(None),
        "modelmesh": Setting(None),
        "others": Setting({}),
        "anonymous": Setting(None),
        "tokens": Setting(None, kind="path"),
        "certificate": Setting(None, kind="path"),
        "key": Setting(None, kind="path"),
        "max_body_bytes": Setting(268435456),
        "max_bodies_bytes": Setting(None),
    },
    "limits": {
        "max_message_bytes": Setting(1073741824),
        "max_in_flight_bytes": Setting(4294967296),
        "peer_buffer_bytes": Setting(33554432, kind="int", read="size", bounds=(("ge", 4096),)),
    },
    "name": Setting("default", kind="str", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    "runtime_dir": Setting(None, kind="path", read="directory"),
    "state_dir": Setting(None, kind="path", read="directory"),
    "log_level": Setting("info", kind="str", choices=("debug", "info", "warning", "error")),
    "log_format": Setting("text", kind="str", choices=("text", "json")),
    "finders": Setting({}),
    "loaders": Setting({}),
    "initializers": Setting({}),
    "sizers": Setting({}),
    "preload": Setting({}),
}
TABLES: Final = ("finders", "loaders", "initializers", "sizers")
"""Settings that are tables of plugins, by name."""
ENTRY: Final[dict[str, Any]] = {
    "path": None,
    "type": None,
    "options": {},
    "finder": None,
    "loader": None,
    "initializer": None,
    "retries": None,
    "pin": None,
    "labels": {},
    "memory_limit": None,
    "evictable": None,
    "idle_ttl_s": None,
    "cpu_threads": None,
    "problem": "",
}
"""What an entry of `preload` has that leaves all out."""
