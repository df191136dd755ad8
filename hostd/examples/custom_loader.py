"""A loader of one's own: models are text files of `word: count`, and know how often a word comes.

    python -m hostd.examples.custom_loader

A loader is a function of a path that returns an object; its public methods are what callers use. The host never imports
it: each worker does. A `model.yaml` beside the file names it, so `hostd load` and a deploy need no more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import hostd


class Counts:
    """How often words come."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def count(self, word: str) -> int:
        """Return how often a word comes."""
        return self._counts.get(word, 0)


def load(path: str, *, lower: bool = False) -> Counts:
    """Return the counts below a model's directory; `lower` is an option, given in `model.yaml`."""
    lines = Path(path, "counts.txt").read_text("utf-8").splitlines()
    pairs = (line.split(":") for line in lines if line)
    return Counts({word.lower() if lower else word: int(number) for word, number in pairs})


def main() -> None:
    """Make such a model, have it loaded, and ask it."""
    with tempfile.TemporaryDirectory() as directory, hostd.Host() as host:
        Path(directory, "counts.txt").write_text("Ada: 3\nGrace: 2\n", "utf-8")
        Path(directory, "model.yaml").write_text(
            "loader: hostd.examples.custom_loader:load\noptions: {lower: true}\n", "utf-8"
        )
        counts = host.client().load_model("counts", directory)
        print(f"ada comes {counts.count('ada')} times")


if __name__ == "__main__":
    main()
