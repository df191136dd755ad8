"""A models directory with its scanner, for the tests of scans."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from hostd.shell.repository.scanner import Scan, Scanner

if TYPE_CHECKING:
    from pathlib import Path


class Rig:
    """A directory, its scanner, and how often it asked what is a model: whatever has "model" in a name at its top."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: Counter[str] = Counter()
        self.scanner = Scanner(path, self._recognises)

    def _recognises(self, model_id: str, path: str) -> bool:
        self.asked[model_id] += 1
        names = os.listdir(path) if os.path.isdir(path) else [path]
        return any("model" in os.path.basename(name) for name in names)

    def add(self, name: str, text: str = "1") -> Path:
        directory = self.path / name
        directory.mkdir(parents=True)
        (directory / "model.py").write_text(text)
        return directory

    def scan(self, *loaded: str, retry_all: bool = False, **elsewhere: str) -> Scan:
        """Scan with models that were loaded from the directory, and others by id and path."""
        paths = {name: str(self.path / name) for name in loaded}
        return self.scanner.scan({**paths, **elsewhere}, retry_all)

    def found(self, *loaded: str, retry_all: bool = False) -> list[str]:
        return sorted(name for name, _ in self.scan(*loaded, retry_all=retry_all).found)

    def fail(self, name: str, times: int = 1) -> None:
        """Find and fail an entry, until it is not found any more."""
        for _ in range(times):
            assert name in self.found()
            self.scanner.note_failed(name)
        assert name not in self.found()
