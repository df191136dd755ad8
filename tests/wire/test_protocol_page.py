"""PROTOCOL.md says what the code does: its example decodes, its tables name every kind, extension, verb and status."""

from __future__ import annotations

import re
from pathlib import Path

import workers.wire.codec
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.codec import decode
from workers.wire.errors import Status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "workers" / "PROTOCOL.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_example_is_a_call_and_its_result():
    block = re.search(r"```hex\n(.*?)```", PAGE, re.DOTALL)[1]
    call, result = [wire.unpack([bytes.fromhex(line)]) for line in block.splitlines()]

    assert (call.kind, call.id, call.deadline_ms) == (msg.CALL, 7, 60_000)
    assert msg.unpack_target(call.header) == msg.Target("greeter", "greet")
    assert decode(call.body) == [["Ada"], {}]
    assert (result.kind, result.id, decode(result.body)) == (msg.RESULT, 7, "Hello, Ada!")


def test_every_kind_is_listed_with_its_number():
    kinds = {name: value for name, value in vars(msg).items() if name.isupper() and type(value) is int and value < 64}
    kinds = {name: value for name, value in kinds.items() if not name.startswith("MAX")} | {"BATCH": wire.BATCH}

    assert {
        name: int(number) for number, name in re.findall(r"^\| (\d+) \| (\w+) \|", section("Kinds"), re.MULTILINE)
    } == kinds


def test_every_extension_type_is_listed():
    types = {value for name, value in vars(workers.wire.codec).items() if name.startswith("EXT_")}

    assert {int(number) for number in re.findall(r"^\| (\d+) \|", section("Values"), re.MULTILINE)} == types


def test_every_verb_is_listed():
    service = (ROOT / "hostd" / "shell" / "service.py").read_text(encoding="utf-8")

    assert set(re.findall(r"^\| `(\w+)` \|", section("Verbs"), re.MULTILINE)) == set(
        re.findall(r'"(\w+)": Verb\(', service)
    )


def test_the_statuses_have_their_names_and_numbers():
    for number, name in re.findall(r"^\| (\d+) (\w+) \|", section("Errors"), re.MULTILINE):
        assert Status[name] == int(number)
