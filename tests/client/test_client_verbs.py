"""What both clients send for each verb, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from deploy_host import RECORD, result
from fake_host import FakeHost, Frames, echo

from hostd.client import listed
from hostd.records import Holder, LoadPlan, MemoryInfo, ModelInfo, SizeEstimate, SyncReport, UnloadReport
from hostd.views import HostSummary, ModelSummary
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

Ask = Callable[..., Any]


class Answers:
    """A host that gives one answer to every verb, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer: Any = RECORD

    def __call__(self, host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        if request.kind != msg.VERB:
            yield from echo(host, request)
            return
        self.asked.append((msg.unpack_verb(request.header), msg.unpack_map(request)))
        yield result(request, self.answer)


@pytest.fixture
def host() -> Answers:
    return Answers()


@pytest.fixture
def ask(connect: Callable[..., Any], fake: Callable[..., FakeHost], host: Answers) -> Ask:
    """Call a verb of a client by name."""
    fake(host)
    return lambda verb, *args, **how: getattr(connect(), verb)(*args, **how)


M = {"model_id": "m"}
INFO = ModelInfo.from_dict(RECORD)
HOW = {"finder": "files", "loader": "words:load", "initializer": "mine", "options": {"threads": 2}}
LABELS = {"team": "a"}
LOADED = {**M, **HOW, "path": "/m", "type": "mine"}
UNLOADED = {"model_id": "m", "size_bytes": 5, "freed_bytes": 4, "processes": 1, "duration_s": 0.5}
REPORT = UnloadReport("m", 5, 4, 1, 0.5)
FIGURES = {"need_bytes": 400, "need_source": "remembered", "budget_bytes": 1000, "free_bytes": 100}
VICTIM = {"model_id": "a", "bytes": 300, "idle_s": 7.5, "reload_s": 2.0, "why": ""}
MEMORY = MemoryInfo(1000, "8 % of the machine", 600, 50, 25, 350, ("a",), (), None, {"room": 3}, 1, 2, 3, 4, 99, REPORT)
FUTURE = {"a field of the future": 1}

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any], Any, Any]] = [
    ("unload_model", ("m",), {"timeout_s": 5}, M, UNLOADED, REPORT),
    ("unload_model", ("m",), {"now": True}, {**M, "now": True}, UNLOADED, REPORT),
    ("unload_all_models", (), {}, {}, [UNLOADED], [REPORT]),
    ("unload_all_models", (), {"now": True}, {"now": True}, [], []),
    ("unload_all_models", (), {"labels": LABELS}, {"labels": LABELS}, [], []),
    ("unload_all_models", (), {"labels": {}}, {"labels": {}}, [], []),
    ("undeploy_model", ("m",), {"timeout_s": 5}, M, UNLOADED, REPORT),
    ("list_models", (), {}, {}, [encode(RECORD)[0]], [INFO]),
    ("list_models", (), {"all": True}, {"all": True}, [], []),
    ("list_models", (), {"labels": LABELS}, {"labels": LABELS}, [], []),
    ("get_model", ("m",), {}, M, RECORD, INFO),
    ("get_model", ("m",), {"all": True}, {**M, "all": True}, RECORD, INFO),
    ("explain_model", ("m",), {}, M, {"state": "READY"}, {"state": "READY"}),
    ("model_logs", ("m",), {}, {**M, "tail_bytes": 65536}, "text", "text"),
    ("model_logs", ("m", 9), {}, {**M, "tail_bytes": 9}, "text", "text"),
    ("model_stacks", ("m",), {}, M, {7: "Thread"}, {7: "Thread"}),
    ("estimate_model_size", ("m", "/m", "mine"), {}, {**M, "path": "/m", "type": "mine"},
     {"bytes": 12345, "source": "remembered", **FUTURE}, SizeEstimate(12345, "remembered")),
    ("plan_load", ("m", "/m", "mine"), HOW, LOADED,
     {**M, "outcome": "evict", **FIGURES, **FUTURE, "victims": [VICTIM],
      "holders": [{"model_id": "b", "bytes": 600, "why": "it is pinned"}]},
     LoadPlan("m", "evict", **FIGURES, victims=(Holder("a", 300, 7.5, 2.0),),
              holders=(Holder("b", 600, why="it is pinned"),))),
    ("pin_model", ("m",), {}, {**M, "pinned": True}, RECORD, INFO),
    ("unpin_model", ("m",), {}, {**M, "pinned": False}, RECORD, INFO),
    ("memory_info", (), {}, {}, {**MEMORY.to_dict(), **FUTURE}, MEMORY),
    ("memory_info", (), {}, {}, {}, MemoryInfo()),
    ("host_summary", (), {}, {}, {"epoch": "e", "state": "READY", "models": {"m": {"state": "FAILED", **FUTURE}}, **FUTURE},
     HostSummary("e", "READY", models={"m": ModelSummary("FAILED")})),
    ("sync_local_models", (), {}, {"wait": False, "load": True},
     {"loaded": ["a", "b"], "unloaded": ["c"], "failed": {"d": "no model.py"}, "writing": ["e"], "degraded": None},
     SyncReport(("a", "b"), ("c",), {"d": "no model.py"}, ("e",), None)),
    ("sync_local_models", (True, False), {}, {"wait": True, "load": False}, {}, SyncReport()),
    ("sync_local_models", (), {"wait": True, "timeout_s": 9}, {"wait": True, "load": True}, {}, SyncReport()),
    ("reload_config", (), {}, {}, {"changed": {}}, {"changed": {}}),
    ("host_settings", (), {}, {}, {"memory": {}}, {"memory": {}}),
    ("shutdown", (), {}, {}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "args", "how", "sent", "answer", "returned"), CASES)
def test_a_verb_sends_what_it_was_given_and_returns_the_answer_as_a_record(
    ask: Ask,
    host: Answers,
    verb: str,
    args: tuple[Any, ...],
    how: dict[str, Any],
    sent: dict[str, Any],
    answer: Any,
    returned: Any,
) -> None:
    host.answer = answer
    assert ask(verb, *args, **how) == returned
    assert host.asked == [(verb if verb != "unpin_model" else "pin_model", sent)]


def test_a_load_that_ends_with_its_caller_says_so(ask: Ask, host: Answers) -> None:
    ask("load_model", "m", "/m", cancel_on_timeout=True)
    assert host.asked[0][1]["cancel_on_timeout"] is True


def test_a_load_sends_what_its_plan_does_and_how_it_is_waited_for(ask: Ask, host: Answers) -> None:
    model = ask("load_model", "m", "/m", "mine", **HOW)
    assert (model.id, model.path) == ("m", "/models/m")
    ask("load_model", "m", "/m", "mine", **HOW, wait=False, retries=3, reload=True, labels=LABELS)
    assert host.asked == [
        ("load_model", {**LOADED, "wait": True}),
        ("load_model", {**LOADED, "wait": False, "retries": 3, "reload": True, "labels": LABELS}),
    ]


@pytest.mark.parametrize("verb", ["load_model", "plan_load", "estimate_model_size"])
def test_a_path_is_of_the_clients_working_directory(
    ask: Ask, host: Answers, monkeypatch: Any, tmp_path: Path, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    host.answer = {**RECORD, **M, "outcome": "fits", **FIGURES, "bytes": 1, "source": "declared"}
    ask(verb, "m", "models/m")
    assert host.asked[0][1]["path"] == str(tmp_path / "models/m")


def test_the_lines_of_a_log_are_asked_for_until_there_are_no_more_or_for_ever(ask: Ask, host: Answers) -> None:
    text = b"2026-11-29T13:40:21.123Z first\nsecond\n"
    host.answer = {"data": text, "start": 0, "end": len(text), "newest": len(text)}
    assert [line.text for line in ask("log_lines", "m", tail=5)] == ["first", "second"]
    assert host.asked == [("read_log", {**M, "after": None, "tail_bytes": 65536})]
    followed = ask("log_lines", "m", follow=True)
    assert [next(followed).text, next(followed).text] == ["first", "second"]
    assert next(followed).is_note, "the host's next answer begins anew"
    followed.close()


@pytest.mark.parametrize("retries", [0, 3, -1, True])
def test_the_host_gets_the_retries_as_they_were_given(ask: Ask, host: Answers, retries: int) -> None:
    ask("load_model", "m", "/m", retries=retries)
    sent = host.asked[0][1]["retries"]
    assert (sent, type(sent)) == (retries, type(retries))


@pytest.mark.parametrize("model_id", [None, "", 5], ids=repr)
def test_c15_retrieve_sends_a_wrong_id_as_it_is_for_the_host_to_refuse(ask: Ask, host: Answers, model_id: Any) -> None:
    ask("retrieve_model", model_id)
    assert host.asked == [("retrieve_model", {"model_id": model_id})]


def test_c15_an_id_that_cannot_travel_is_refused(ask: Ask) -> None:
    with pytest.raises(InvalidArgumentError):
        ask("retrieve_model", object())


@pytest.mark.parametrize("model_id", [None, ""], ids=repr)
def test_c14_no_model_has_an_empty_id(ask: Ask, host: Answers, model_id: Any) -> None:
    with pytest.raises(NotFoundError, match=f"no model has the id {model_id!r}"):
        ask("get_model_size", model_id)
    assert host.asked == []


@pytest.mark.parametrize("state", ["LOADING", "FAILED", "UNLOADING", "QUARANTINED"])
def test_c14_the_size_of_what_is_not_loaded_is_not_found_and_says_why(ask: Ask, host: Answers, state: str) -> None:
    host.answer = {**RECORD, "state": state, "size": 5, "reason": "its worker died"}
    with pytest.raises(NotFoundError, match=rf"'m' is not loaded: it is {state} \(its worker died\)"):
        ask("get_model_size", "m")


@pytest.mark.parametrize("state", ["READY", "DEGRADED"])
def test_c14_the_size_of_a_model_that_serves_is_its_bytes(ask: Ask, host: Answers, state: str) -> None:
    host.answer = {**RECORD, "state": state, "size": 5}
    assert ask("get_model_size", "m") == 5
    host.answer = {**RECORD, "state": state, "size": None}
    with pytest.raises(NotFoundError, match="not measured yet"):
        ask("get_model_size", "m")


def test_the_host_says_where_its_models_are_and_what_does_not_work(ask: Ask, host: Answers) -> None:
    facts = dict.fromkeys(("pid", "protocol", "models", "workers", "rss_bytes"), 1)
    facts |= dict.fromkeys(("epoch", "version", "endpoint", "runtime_dir", "state_dir", "python"), "x")
    host.answer = {**facts, "started_s": 1.0, "metrics_port": None}
    assert (ask("host_info").models_dir, ask("host_info").degraded) == (None, ())
    host.answer = {**host.answer, "models_dir": "/models", "degraded": ["/models cannot be read"]}
    assert ask("host_info").models_dir == "/models"
    assert ask("host_info").degraded == ("/models cannot be read",)


def test_the_record_of_a_model_that_has_not_changed_is_not_unpacked_again(
    ask: Ask, host: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.answer = [encode(RECORD)[0], encode({**RECORD, "id": "other"})[0]]
    first = ask("list_models")
    monkeypatch.setattr(listed, "decode", pytest.fail)
    assert ask("list_models") == first
    assert [info.id for info in first] == ["m", "other"]


def test_what_is_done_to_a_record_of_a_list_changes_no_other(ask: Ask, host: Answers) -> None:
    host.answer = [encode({**RECORD, "methods": {"echo": {"name": "echo"}}, "labels": LABELS})[0]]
    (info,) = ask("list_models")
    info.methods.clear()
    info.labels.clear()
    (again,) = ask("list_models")
    assert (list(again.methods), again.labels) == (["echo"], LABELS)
