"""The finder that asks several others in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.finders.protocol import ask
from hostd_workers.wire.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd.config.spec import ModelSpec
    from hostd.finders.protocol import Finder


class MultiFinder:
    """Asks finders in order; the first that knows the model tells what it is."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = tuple(finders)

    @property
    def looks_for(self) -> str:
        """What all of them look for."""
        return ", ".join(finder.looks_for for finder in self._finders)

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:
        """Return the first answer; raises what a finder raises.

        "Nothing is there" (NotFoundError) is raised only after all were asked, because one may know the id and need no
        path.
        """
        missing: NotFoundError | None = None
        for finder in self._finders:
            try:
                spec = ask(finder, model_id, path)
            except NotFoundError as error:
                missing = missing or error
                continue
            if spec is not None:
                return spec
        if missing is not None:
            raise missing
        return None
