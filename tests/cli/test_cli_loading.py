"""`load` of what is loaded, and `load --reload`, against a host that answers from memory."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("as loaded", ""),
        ("unknown", ""),
        ("changed", "its files have changed since, and it serves what was loaded: hostd load digits --reload"),
        ("gone", "its files are gone since: nothing is at /models/digits any more"),
    ],
)
def test_load_of_what_is_loaded_says_so_and_whether_its_files_have_changed(run, client, digits, files, words) -> None:
    client.already_loaded = True
    client.models["digits"] = replace(digits, path="/models/digits", ready_s=time.time() - 38, files=files)
    result = run("load", "digits", "/models/digits")
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert re.match(r"digits was already loaded 3\d(\.\d)? s ago: pid ", first), first
    assert "".join(rest) == words
    assert "ready in" not in result.stdout
    told = json.loads(run("load", "digits", "/models/digits", "--json").stdout)
    assert (told["already_loaded"], told["files"]) == (True, files)


def test_load_of_something_new_says_how_long_it_took(run, client) -> None:
    assert "is ready in" in run("load", "digits", "/models/digits").stdout


def test_reload_needs_no_path(run, client) -> None:
    assert run("load", "digits", "--reload").exit_code == 0
    assert run("load", "digits", "/other", "--reload", "-o", "a=1").exit_code == 0
    asked = [(one[2], one[4]["reload"], one[4]["options"]) for one in client.asked if one[0] == "load"]
    assert asked == [(None, True, {}), ("/other", True, {"a": 1})]
    result = run("load", "digits")
    assert result.exit_code == 2
    assert "name the PATH of the model; only --reload knows it" in result.stderr
