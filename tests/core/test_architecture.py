"""The page that describes the design shows the tables as they are, and names code that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers import REPOSITORY

import hostd
from hostd.core.lifecycle import ModelState, diagram

HOSTD = Path(hostd.__file__).parent
PAGE = (HOSTD / "ARCHITECTURE.md").read_text(encoding="utf-8")
LIFECYCLE = (HOSTD / "docs" / "lifecycle.md").read_text(encoding="utf-8")
DECISIONS = PAGE[PAGE.index("## Decisions") : PAGE.index("## Dependencies")]
STORIES = PAGE[PAGE.index("## Four stories") : PAGE.index("## Lifecycle")]
STEPS = sorted(set(re.findall(r"`([\w/]+\.py):(\w+)`", STORIES)))


def test_the_page_about_lifecycles_shows_the_tables_verbatim_and_explains_each_state_of_a_model():
    assert diagram() in LIFECYCLE, "paste what hostd.core.lifecycle.diagram() returns into hostd/docs/lifecycle.md"
    assert re.findall(r"^\| ([A-Z]+) \|", LIFECYCLE, re.MULTILINE) == [state.value for state in ModelState]


def test_the_page_is_short_and_each_decision_has_a_number_of_its_own():
    assert PAGE.count("\n") <= 400
    numbers = [int(number) for number in re.findall(r"^\* \*\*(\d+)\.", DECISIONS, re.MULTILINE)]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:core|shell|client|hostd|workers|docs|tests)/[\w/.]+)`", PAGE)))
)
def test_what_the_page_names_is_there(name):
    """A path as it stands, or a module, or an attribute of a module."""
    folder, _, last = name.rpartition("/")
    paths = (name, f"{name}.py", f"{folder}/{last.split('.')[0]}.py")
    assert any((root / path).exists() for root in (REPOSITORY, HOSTD) for path in paths)


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_each_step_of_a_story_is_a_function_that_is_there(file, function):
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    known = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert function in known


def test_there_are_four_stories_of_at_most_eight_steps():
    stories = [part for part in STORIES.split("\n\n") if part.startswith("1. ")]
    assert [len(story.splitlines()) <= 8 for story in stories] == [True] * 4
