"""PROTOCOL.md says what the code does: its example decodes, its tables name every kind, extension, verb and status."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np

import hostd_workers.wire.codec
from hostd.records import (
    Event,
    Holder,
    HostInfo,
    LoadPlan,
    MemoryInfo,
    MethodInfo,
    ModelInfo,
    UnloadReport,
    WorkerInfo,
)
from hostd_workers.wire import arrays
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import DEFAULT_LIMITS, decode, encode_call
from hostd_workers.wire.errors import MAX_MESSAGE_CHARS, Status

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


def test_the_example_of_a_conversation_is_one():
    block = re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)[1]
    said = [(line[0], wire.unpack([bytes.fromhex(line[1:])])) for line in block.splitlines()]
    kinds = [("→" if envelope.kind < msg.WELCOME else "←", envelope.kind) for _, envelope in said]
    hello, welcome, stream, *_, credit, _, end, call, error = (envelope for _, envelope in said)

    assert [direction for direction, _ in said] == [direction for direction, _ in kinds]
    assert (msg.unpack_map(hello), msg.unpack_map(welcome)) == ({"versions": [1]}, {"version": 1, "epoch": "e"})
    assert msg.unpack_target(stream.header) == msg.Target("m", "count", None, 2)
    assert (decode(stream.body), msg.unpack_credit(credit.header)) == ([[3], {}], 2)
    assert [decode(envelope.body) for _, envelope in said if envelope.kind == msg.ITEM] == [0, 1, 2]
    assert (end.kind, decode(end.body)) == (msg.END, None)
    assert decode(call.body)[0][0].tolist() == [[1, 2]]
    assert repr(msg.unpack_error(error)) == "NotFoundError('no model')"
    for (_, envelope), line in zip(said, block.splitlines(), strict=True):
        frames = wire.pack(envelope.kind, envelope.id, envelope.header, envelope.body)
        assert [bytes(frame) for frame in frames] == [bytes.fromhex(line[1:])]


def test_the_bytes_of_values_are_those_that_are_written():
    block = re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)[1]
    call = wire.unpack([bytes.fromhex(block.splitlines()[8][1:])])

    assert encode_call([np.array([[1, 2]], "<i2")], {}) == (call.body, [])


def test_the_records_have_the_keys_that_are_listed():
    listed = {
        name: re.findall(r"`(\w+)`", keys)
        for name, keys in re.findall(r"^\| ([a-z ]+) \| (`.*) \|$", section("Verbs"), re.MULTILINE)
        if not name.startswith("`")
    }
    records = {
        "model": ModelInfo,
        "method": MethodInfo,
        "worker": WorkerInfo,
        "unload report": UnloadReport,
        "load plan": LoadPlan,
        "holder": Holder,
        "memory": MemoryInfo,
        "event": Event,
        "host": HostInfo,
    }

    assert listed == {name: [field.name for field in fields(record)] for name, record in records.items()}


def test_the_numbers_in_the_text_are_those_of_the_code():
    limits = DEFAULT_LIMITS
    for text in (
        f"at most {wire.INLINE_BODY_BYTES // 1024} KiB",
        f"at most {wire.MAX_FRAMES} frames",
        f"at most 2^{msg.MAX_CREDIT.bit_length() - 1} each",
        f"below {wire.BATCHED_BELOW_BYTES // 1024} KiB",
        f"at most {wire.MAX_BATCH_MESSAGES})",
        f"up to {hostd_workers.wire.codec.INLINE_ARRAY_BYTES // 1024} KiB",
        f"at most {arrays.MAX_FIELDS} fields",
        f"at most {arrays.MAX_DIMENSIONS} sizes",
        f"{limits.depth} nested containers, of them {hostd_workers.wire.codec.MAX_TUPLES} tuples",
        f"{limits.container_len:,} elements",
        f"(at most {msg.MAX_METHODS} methods)",
        f"{limits.blob_bytes >> 30} GiB a string",
        f"at most {MAX_MESSAGE_CHARS}",
    ):
        assert text in " ".join(PAGE.split()), text


def test_the_limits_of_what_a_host_reads_are_those_of_the_code():
    of = {
        "header, HELLO, WORKER_HELLO": msg.HEADER_LIMITS,
        "VERB": msg.limits_of("load_model"),
        "VERB `deploy_begin`, `deploy_write`": msg.limits_of("deploy_begin"),
        f"LOADED (at most {msg.MAX_METHODS} methods)": msg.LOADED_LIMITS,
        "ERROR about a LOAD, LAST_WORDS": msg.ERROR_LIMITS,
    }
    for name, budget in of.items():
        kib = [f"{size_bytes >> 10} KiB" for size_bytes in (budget.body_bytes, budget.buffer_bytes)]
        row = [name, *kib, budget.values, budget.list_len, budget.map_len, budget.depth]
        assert f"| {' | '.join(map(str, row))} |" in section("Values"), name
    assert msg.limits_of("deploy_write") == msg.limits_of("deploy_begin")


def test_every_kind_is_listed_with_its_number():
    kinds = {name: value for name, value in vars(msg).items() if name.isupper() and type(value) is int and value < 64}
    kinds = {name: value for name, value in kinds.items() if not name.startswith("MAX")} | {"BATCH": wire.BATCH}

    assert {
        name: int(number) for number, name in re.findall(r"^\| (\d+) \| (\w+) \|", section("Kinds"), re.MULTILINE)
    } == kinds


def test_every_extension_type_is_listed():
    types = {value for name, value in vars(hostd_workers.wire.codec).items() if name.startswith("EXT_")}

    assert {int(number) for number in re.findall(r"^\| (\d+) \|", section("Values"), re.MULTILINE)} == types


def test_every_verb_is_listed():
    service = (ROOT / "hostd" / "shell" / "control" / "requests.py").read_text(encoding="utf-8")

    assert set(re.findall(r"^\| `(\w+)` \|", section("Verbs"), re.MULTILINE)) == set(
        re.findall(r'"(\w+)": Verb\(', service)
    )


def test_the_statuses_have_their_names_and_numbers():
    for number, name in re.findall(r"^\| (\d+) (\w+) \|", section("Errors"), re.MULTILINE):
        assert Status[name] == int(number)
