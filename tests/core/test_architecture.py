"""The page that describes the design shows the tables as they are."""

from __future__ import annotations

from pathlib import Path

import hostd
from hostd.core.lifecycle import diagram


def test_the_architecture_page_shows_the_diagrams_of_the_tables_verbatim():
    page = Path(hostd.__file__).with_name("ARCHITECTURE.md").read_text(encoding="utf-8")
    assert diagram() in page, "paste what hostd.core.lifecycle.diagram() returns into hostd/ARCHITECTURE.md"
