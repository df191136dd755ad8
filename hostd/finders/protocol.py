"""What a finder is, how one is asked, and how it looks at a disk."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

from hostd import hints
from hostd.config.spec import ModelSpec
from hostd_workers.wire.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = "hostd.finders."
"""What the names of the modules begin with whose finders need no check."""


class Finder(Protocol):
    """Recognises models.

    Made once, when the host starts, and called in several threads of it, for each load and for each new entry of the
    models directory: it may look at a disk, but must not hang.
    """

    @property
    def looks_for(self) -> str:
        """What it recognises, for the error that says it was not there."""
        ...

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:
        """Return what to load, or None if this is nothing that it knows.

        Raises a `HostError` for a model that it knows and that is wrong, and NotFoundError if nothing is at `path`.
        """
        ...


def ask(finder: Finder, model_id: str, path: str | None) -> ModelSpec | None:
    """Return what a finder finds. Raises what it raises, and TypeError if that is no specification."""
    spec: object = finder.find(model_id, path)
    if spec is None:
        return None
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"{type(finder).__name__}.find must return a ModelSpec or None, got {spec!r:.200}")
    if not type(finder).__module__.startswith(_OURS):
        # When it is found: what is wrong would be noticed on the loop, where nobody waits for it.
        from hostd.finders.checking import check  # noqa: PLC0415 - most hosts have no such finder

        check(spec, finder)
    return spec


@contextlib.contextmanager
def looking_at(path: str) -> Iterator[None]:
    """Turn what the system says about a path into typed errors, as `hints.looking_at` does.

    Nothing is at a relative path: the working directory of the host is nobody's business.
    """
    if not os.path.isabs(path):  # noqa: PTH117 - an empty string must stay distinguishable from "."
        raise NotFoundError(f"there is nothing at {path}: a path must be absolute", details={"path": path})
    with hints.looking_at(path):
        yield
