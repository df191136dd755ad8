"""The page that describes the design shows the tables as they are, and names code that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers import REPOSITORY

import hostd
from hostd.core.lifecycle import diagram

PAGE = Path(hostd.__file__).with_name("ARCHITECTURE.md").read_text(encoding="utf-8")
STORIES = PAGE[PAGE.index("## Four stories") : PAGE.index("## Lifecycle")]
STEPS = sorted(set(re.findall(r"`([\w/]+\.py):(\w+)`", STORIES)))


def test_the_architecture_page_shows_the_diagrams_of_the_tables_verbatim():
    assert diagram() in PAGE, "paste what hostd.core.lifecycle.diagram() returns into hostd/ARCHITECTURE.md"


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_each_step_of_a_story_is_a_function_that_is_there(file, function):
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    known = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert function in known


def test_there_are_four_stories_of_at_most_eight_steps():
    stories = [part for part in STORIES.split("\n\n") if part.startswith("1. ")]
    assert [len(story.splitlines()) <= 8 for story in stories] == [True] * 4
