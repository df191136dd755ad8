"""PROTOCOL.md says what the code does: its example decodes, its tables name every kind, extension, verb and status."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np

from hostd import records
from hostd_workers.wire import arrays, codec
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import MAX_MESSAGE_CHARS, Status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "workers" / "PROTOCOL.md").read_text(encoding="utf-8")
EXAMPLES = [block.splitlines() for block in re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)]


def section(title):
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_example_is_a_call_and_its_result():
    call, result = [wire.unpack([bytes.fromhex(line)]) for line in EXAMPLES[0]]
    assert (call.kind, call.id, call.deadline_ms) == (msg.CALL, 7, 60_000)
    assert msg.unpack_target(call.header) == msg.Target("greeter", "greet")
    assert decode(call.body) == [["Ada"], {}]
    assert (result.kind, result.id, decode(result.body)) == (msg.RESULT, 7, "Hello, Ada!")


def test_the_example_of_a_conversation_is_one():
    sent = [bytes.fromhex(line[1:]) for line in EXAMPLES[1]]
    said = [wire.unpack([data]) for data in sent]
    hello, welcome, stream, *_, credit, _, end, call, error = said
    assert [line[0] for line in EXAMPLES[1]] == ["→" if one.kind < msg.WELCOME else "←" for one in said]
    assert (msg.unpack_map(hello), msg.unpack_map(welcome)) == ({"versions": [1]}, {"version": 1, "epoch": "e"})
    assert msg.unpack_target(stream.header) == msg.Target("m", "count", None, 2)
    assert (decode(stream.body), msg.unpack_credit(credit.header)) == ([[3], {}], 2)
    assert [decode(one.body) for one in said if one.kind == msg.ITEM] == [0, 1, 2]
    assert (end.kind, decode(end.body)) == (msg.END, None)
    assert decode(call.body)[0][0].tolist() == [[1, 2]]
    assert encode_call([np.array([[1, 2]], "<i2")], {}) == (call.body, [])
    assert repr(msg.unpack_error(error)) == "NotFoundError('no model')"
    assert [wire.pack(one.kind, one.id, one.header, one.body) for one in said] == [[data] for data in sent]


def test_the_records_have_the_keys_that_are_listed():
    listed = {
        name: re.findall(r"`(\w+)`", keys)
        for name, keys in re.findall(r"^\| ([a-z ]+) \| (`.*) \|$", section("Verbs"), re.MULTILINE)
    }
    kinds = [
        "ModelInfo",
        "MethodInfo",
        "TensorInfo",
        "WorkerInfo",
        "UnloadReport",
        "LoadPlan",
        "Holder",
        "MemoryInfo",
        "Event",
        "HostInfo",
    ]
    names = "model", "method", "tensor", "worker", "unload report", "load plan", "holder", "memory", "event", "host"
    assert listed == {
        name: [field.name for field in fields(getattr(records, kind))] for name, kind in zip(names, kinds, strict=True)
    }


def test_the_numbers_in_the_text_are_those_of_the_code():
    limits = codec.DEFAULT_LIMITS
    for text in (
        f"at most {wire.INLINE_BODY_BYTES // 1024} KiB",
        f"at most {wire.MAX_FRAMES} frames",
        f"at most 2^{msg.MAX_CREDIT.bit_length() - 1} each",
        f"below {wire.BATCHED_BELOW_BYTES // 1024} KiB",
        f"at most {wire.MAX_BATCH_MESSAGES})",
        f"up to {codec.INLINE_ARRAY_BYTES // 1024} KiB",
        f"at most {arrays.MAX_FIELDS} fields",
        f"at most {arrays.MAX_DIMENSIONS} sizes",
        f"{limits.depth} nested containers, of them {codec.MAX_TUPLES} tuples",
        f"{limits.container_len:,} elements",
        f"(at most {msg.MAX_METHODS} methods)",
        f"{limits.blob_bytes >> 30} GiB a string",
        f"at most {MAX_MESSAGE_CHARS}",
    ):
        assert text in " ".join(PAGE.split()), text


def test_the_limits_of_what_a_host_reads_are_those_of_the_code():
    for name, budget in {
        "header, HELLO, WORKER_HELLO, MODEL_CLOSED": msg.HEADER_LIMITS,
        "VERB": msg.limits_of("load_model"),
        "VERB `deploy_begin`, `deploy_write`": msg.limits_of("deploy_begin"),
        f"LOADED (at most {msg.MAX_METHODS} methods)": msg.LOADED_LIMITS,
        "ERROR about a LOAD, LAST_WORDS": msg.ERROR_LIMITS,
    }.items():
        kib = [f"{size_bytes >> 10} KiB" for size_bytes in (budget.body_bytes, budget.buffer_bytes)]
        row = [name, *kib, budget.values, budget.list_len, budget.map_len, budget.depth]
        assert f"| {' | '.join(map(str, row))} |" in section("Values"), name
    assert msg.limits_of("deploy_write") == msg.limits_of("deploy_begin")


def test_every_kind_extension_verb_and_status_is_listed():
    kinds = {name: value for name, value in vars(msg).items() if name.isupper() and type(value) is int and value < 64}
    kinds = {name: value for name, value in kinds.items() if not name.startswith("MAX")} | {"BATCH": wire.BATCH}
    service = (ROOT / "hostd" / "shell" / "control" / "requests.py").read_text(encoding="utf-8")

    def listed(title, row):
        return re.findall(row, section(title), re.MULTILINE)

    assert {name: int(number) for number, name in listed("Kinds", r"^\| (\d+) \| (\w+) \|")} == kinds
    assert set(map(int, listed("Values", r"^\| (\d+) \|"))) == {
        value for name, value in vars(codec).items() if name.startswith("EXT_")
    }
    assert set(listed("Verbs", r"^\| `(\w+)` \|")) == set(re.findall(r'"(\w+)": Verb\(', service))
    assert all(Status[name] == int(number) for number, name in listed("Errors", r"^\| (\d+) (\w+) \|"))
