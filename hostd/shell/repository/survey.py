"""Looks that somebody asks for: what is not loaded, and why; and whether what is loaded still has the same files.

Covers putting together what the models directory and the configuration have; the core joins it to what it knows. All
looks at a disk are taken in threads, and change nothing that is loaded.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hostd.core import events as ev

if TYPE_CHECKING:
    from hostd.core.queries.queries import Queries
    from hostd.shell.repository.contents import Contents
    from hostd.shell.repository.declared import DeclaredModels
    from hostd.shell.repository.repository import Repository


class Survey:
    """Looks at everything that one host could serve. `repository` is None for a host without a models directory."""

    def __init__(
        self, queries: Queries, contents: Contents, repository: Repository | None, declared: DeclaredModels
    ) -> None:
        self._queries = queries
        self._contents = contents
        self._repository = repository
        self._declared = declared

    async def take(self, client: ev.ClientId) -> list[ev.DirectoryEntry]:
        """Look again at the files of what is loaded, and return what could be loaded, or is ignored."""
        models = self._queries.loaded()
        with_files = [(model_id, generation, path) for model_id, generation, path in models if path is not None]
        await self._contents.compare_all(client, with_files)
        found: list[ev.DirectoryEntry] = []
        if self._repository is not None:
            # A directory that cannot be read has no entries to show; `degraded` of the host says why.
            with contextlib.suppress(Exception):
                found = await self._repository.list_entries(client, {model_id for model_id, _, _ in models})
        return [*found, *self._of_declared()]

    def _of_declared(self) -> list[ev.DirectoryEntry]:
        return [
            ev.DirectoryEntry(
                model_id, one.path or "", "FAILED" if one.problem else "AVAILABLE", one.problem or _DECLARED
            )
            for model_id, one in self._declared.now.items()
        ]


_DECLARED = "declared in the configuration (preload), and loaded by a sync (hostd sync)"
