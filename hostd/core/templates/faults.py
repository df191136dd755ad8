"""What does not survive a fork: packages, templates that make no worker, and contents that fail in forked workers.

All of it is remembered with its reason, and bounded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hostd.core.bookkeeping.recent import Recent
from hostd.core.bookkeeping.templates import package_of
from hostd.core.templates.kinds import content_of
from hostd_workers.wire.errors import Status
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.core.bookkeeping.templates import Base, Kind, Template
    from hostd.core.models import Load, Model
    from hostd_workers.wire.errors import HostError

_MOST_KINDS: Final = 256
_MOST_CONTENTS: Final = 1000

_MOST_GIVEN_UP: Final = 8
"""Templates of one kind that made no worker, one after the other, before it goes without."""

_OF_FORKS: Final = pattern(r"\b(after (a )?fork|forked (sub)?process|fork-safe|fork safe)", re.IGNORECASE)
"""How libraries speak of what they cannot do in a child: CUDA in PyTorch, CuPy and JAX, gRPC, Objective-C's runtime."""

_WORDLESS: Final = (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED)
"""How a load fails of which the worker has died, or takes too long."""

_DEATHS: Final = 2
"""How often a content must have died in children, and not in fresh workers, until it is loaded by these alone: once may
have been an accident."""


class Faults:
    """What is known of them."""

    def __init__(self) -> None:
        self._left_out: Recent[Base, dict[str, str]] = Recent(_MOST_KINDS)
        self._given_up: Recent[Kind | Base, int] = Recent(_MOST_KINDS)
        self._deaths: Recent[tuple[Kind, str], int] = Recent(_MOST_CONTENTS)
        self._fresh: Recent[tuple[Kind, str], str] = Recent(_MOST_CONTENTS)

    # Packages

    def leave_out(self, base: Base, module: str, reason: str) -> None:
        """Have a package imported by no template, because a module of it makes that unfit to be forked."""
        self._left_out[base] = {**self._left_out.get(base, {}), package_of(module): reason}

    def forgive(self, base: Base) -> None:
        """Try all packages of an interpreter again: some were installed anew."""
        self._left_out.pop(base, None)

    def safe(self, base: Base, modules: Iterable[str]) -> tuple[str, ...]:
        """Return those of the modules that a template may import."""
        left_out = self._left_out.get(base, {})
        return tuple(name for name in modules if package_of(name) not in left_out)

    def packages(self) -> dict[str, str]:
        """Return the packages that are left out, with the reasons."""
        return {name: why for each in self._left_out.values() for name, why in each.items()}

    # Templates

    def failed(self, template: Template) -> None:
        """Take note of a template that made no worker."""
        about = template.kind or template.base
        self._given_up[about] = self._given_up.get(about, 0) + 1

    def worked(self, template: Template) -> None:
        """Take note of a template that made one."""
        self._given_up.pop(template.kind or template.base, None)

    def is_given_up(self, kind: Kind | None, base: Base) -> bool:
        """Say whether templates of a kind (None: the bare one) have failed so often that there is to be no other."""
        return self._given_up.get(kind or base, 0) >= _MOST_GIVEN_UP

    # Contents

    def is_to_blame(self, load: Load, error: HostError) -> bool:
        """Say whether a load that has failed is to be started afresh: its worker was forked, and that may be why.

        What ends or hangs without a word may do so because of that, and so may what says it. All else that a load
        raises it would raise in a fresh worker, too.
        """
        load.is_wordless = error.status in _WORDLESS and "last_words" not in error.details
        says_so = bool(error.details.get("forked")) or _OF_FORKS.search(error.message) is not None
        return load.is_forked and not load.is_fresh and (load.is_wordless or says_so)

    def succeeded(self, load: Load) -> None:
        """Take note of a content that a child could not load, and a fresh worker could."""
        if load.fresh_because:
            content = content_of(load.model)
            self._deaths[content] = self._deaths.get(content, 0) + 1
            if self._deaths[content] >= _DEATHS or not load.is_wordless:
                self._fresh[content] = load.fresh_because

    def why_fresh(self, model: Model) -> str | None:
        """Return why a content is loaded by fresh workers alone; None if it is not."""
        return self._fresh.get(content_of(model))

    def contents(self) -> dict[str, str]:
        """Return the contents that are, by path or id, with the reasons."""
        return {what: why for (_, what), why in self._fresh.items()}
