"""Records as plain values: whole and brief, and back again."""

import dataclasses
import json

import pytest

import hostd.records
from hostd.record import Record
from hostd.records import (
    Holder,
    HostInfo,
    LoadPlan,
    MemoryInfo,
    MethodInfo,
    ModelInfo,
    SyncReport,
    TensorInfo,
    UnloadReport,
    WorkerInfo,
)
from hostd_workers.wire.codec import decode, encode

WORKER = WorkerInfo(1, None, "READY", processes=2, rss_bytes=0, in_flight=3, sampled_s=0.0)
TOLD = MethodInfo(
    "h", inputs=(TensorInfo("x", "FP32", (-1, 4)), TensorInfo("k", "", None, optional=True)), known_from="reported"
)
MODEL = ModelInfo(
    "m",
    "READY",
    None,
    "t",
    methods={"f": MethodInfo("f"), "g": MethodInfo("g", streams=True, doc="A line."), "h": TOLD},
    workers=(WORKER, WorkerInfo(2, 7, "DEAD")),
    size=0,
    load_duration_s=0.0,
    evictable=False,
    warnings=("one",),
)
RECORDS = [
    MODEL,
    ModelInfo("m", "FAILED", "/m", "t", reason="it has no weights"),
    LoadPlan("m", "evict", 0, "declared", None, 5, victims=(Holder("a", 0, 0.0, None, "it is pinned"),)),
    MemoryInfo(waiting=("a",), evictions={"LOAD": 0}, last_unload=UnloadReport("m", duration_s=0.0)),
    MemoryInfo(free_bytes=0),
    SyncReport(loaded=("a", "b"), failed={"c": ""}),
    HostInfo(1, "e", "1", 1, "ipc://x", 0.0, 0, 0, 0, None, "/run", "/state", "python", degraded=("why",), kind=""),
]


@pytest.mark.parametrize("record", RECORDS, ids=repr)
def test_a_record_is_the_same_by_every_form(record):
    kind = type(record)
    assert record.to_dict() == dataclasses.asdict(record)
    for form in (record.to_dict(), record.to_brief_dict()):
        for plain in (form, json.loads(json.dumps(form)), decode(encode(form)[0])):
            again = kind.from_dict({**plain, "of_a_newer_host": 1})
            assert again == record
            assert (repr(again), list(vars(again))) == (repr(record), list(vars(record)))


def test_the_brief_form_has_what_is_not_empty_and_what_is_no_default():
    assert MODEL.to_brief_dict()["workers"] == (
        {"id": 1, "pid": None, "state": "READY", "processes": 2, "rss_bytes": 0, "sampled_s": 0.0, "in_flight": 3},
        {"id": 2, "pid": 7, "state": "DEAD"},
    )
    assert ModelInfo("m", "READY", None, "t").to_brief_dict() == {
        "id": "m",
        "state": "READY",
        "path": None,
        "type": "t",
        "size_source": "unknown",
        "evictable": True,
        "files": "unknown",
    }


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match="'path' and 'type'"):
        ModelInfo.from_dict({"id": "m", "state": "READY", "of_a_newer_host": 1})


def test_records_have_nothing_that_they_share():
    first, second = (ModelInfo.from_dict({"id": "m", "state": "READY", "path": None, "type": "t"}) for _ in range(2))
    first.methods["f"] = MethodInfo("f")
    assert second.methods == {}
    assert hash(MethodInfo.from_dict({"name": "f"})) == hash(MethodInfo("f"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.id = "n"


def test_no_record_has_work_to_do_when_it_is_made():
    """`from_dict` does without the constructor."""
    kinds = [kind for kind in vars(hostd.records).values() if isinstance(kind, type) and issubclass(kind, Record)]
    assert len(kinds) > 9
    assert not [kind for kind in kinds if hasattr(kind, "__post_init__") or hasattr(kind, "__slots__")]
