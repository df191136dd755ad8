"""What every attack is given, and what it says: its target, when it is over, how it was told."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

PATIENCE_S = 60.0
"""How long to wait for what must happen. Nobody waits so long unless the host fails."""

CONNECT_S = 30.0
"""A host that answers no newcomer for so long is as good as none."""

PREY = "prey"
"""A model that is the attacker's own: what it does to that is nobody else's loss."""

VICTIM = "victim"
"""The model that another client calls all the while."""


@dataclass(frozen=True)
class Target:
    """Where a host can be reached, what it has loaded, and a directory in which models may be written."""

    endpoint: str
    workers_path: str
    metrics_port: int
    models_dir: str
    scratch: str

    @property
    def path(self):
        """Return the path of the clients' socket."""
        return self.endpoint.removeprefix("ipc://")

    def to_json(self):
        """Return it as an argument of a program."""
        return json.dumps(asdict(self))


@dataclass
class Report:
    """What an attacker did, in numbers, and what it was told: an error, or that its connection was closed; "": nothing.

    `wrong` is what must not have happened to it.
    """

    done: dict[str, float] = field(default_factory=dict)
    told: str = ""
    wrong: str = ""


class Cue:
    """Tells an attack that it is over, and its starter that it is under way."""

    def __init__(self):
        self._is_over = threading.Event()
        self._is_under_way = False
        # Standard input ends when our parent says so, or has ended.
        threading.Thread(target=lambda: (sys.stdin.read(), self._is_over.set()), daemon=True).start()

    def is_over(self):
        """Say whether the attack is to end."""
        return self._is_over.is_set()

    def hold(self, for_s=None):
        """Do nothing until the end, or for some seconds; say whether that is the end."""
        return self._is_over.wait(for_s)

    def under_way(self):
        """Say, once, that what others do from now on they do under attack."""
        if not self._is_under_way:
            self._is_under_way = True
            print("under way", flush=True)


@dataclass(frozen=True)
class Attack:
    """A row of the catalogue.

    `run(target, cue, **size)` is the attack; `small` and `full` are its sizes for a test and, if it differs, for a
    benchmark. `deed` is what another client does before it and while it is under way. `must_be_told` says that the
    attacker has to hear that it went too far. `settings` are of the host, `open_files` its limit of descriptors.
    """

    what: str
    run: Callable[..., Report]
    deed: Callable[..., None]
    small: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    must_be_told: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    open_files: int | None = None
