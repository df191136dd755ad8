"""What both clients send for the verbs of sizes and of the models directory, and what they make of the answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from deploy_host import RECORD, result
from fake_host import FakeHost, Frames, echo

from hostd.client._async.client import AsyncClient
from hostd.client._sync.client import Client
from hostd.records import Holder, LoadPlan, MemoryInfo, SizeEstimate, SyncReport, UnloadReport
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

Fake = Callable[..., FakeHost]
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


@pytest.fixture(params=[Client, AsyncClient])
def ask(request: pytest.FixtureRequest, endpoint: str, fake: Fake, host: Answers) -> Ask:
    """Call a verb of a client by name."""
    fake(host)

    def synchronous(verb: str, *args: Any, **how: Any) -> Any:
        with Client(endpoint) as client:
            return getattr(client, verb)(*args, **how)

    def asynchronous(verb: str, *args: Any, **how: Any) -> Any:
        async def body() -> Any:
            async with AsyncClient(endpoint) as client:
                answered = getattr(client, verb)(*args, **how)
                assert inspect.isawaitable(answered)
                return await answered

        return asyncio.run(asyncio.wait_for(body(), 60))

    return synchronous if request.param is Client else asynchronous


def test_an_estimate_is_bytes_and_where_they_come_from(
    ask: Ask, host: Answers, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    host.answer = {"bytes": 12345, "source": "remembered", "a field of the future": 1}
    found = ask("estimate_model_size", "m", "models/m", "mine")
    assert found == SizeEstimate(12345, "remembered")
    assert int(found) == 12345
    assert host.asked == [
        ("estimate_model_size", {"model_id": "m", "path": str(tmp_path / "models/m"), "type": "mine"})
    ]


def test_a_sync_reports_what_became_of_each_model(ask: Ask, host: Answers) -> None:
    host.answer = {
        "loaded": ["a", "b"],
        "unloaded": ["c"],
        "failed": {"d": "no model.py"},
        "writing": ["e"],
        "degraded": None,
    }
    assert ask("sync_local_models") == SyncReport(("a", "b"), ("c",), {"d": "no model.py"}, ("e",), None)
    ask("sync_local_models", True, False)
    ask("sync_local_models", wait=True, load=True, timeout_s=9)
    assert [arguments for _, arguments in host.asked] == [
        {"wait": False, "load": True},
        {"wait": True, "load": False},
        {"wait": True, "load": True},
    ]


def test_an_undeploy_reports_what_was_given_back(ask: Ask, host: Answers) -> None:
    host.answer = {"model_id": "m", "size_bytes": 5, "freed_bytes": 4, "processes": 1, "duration_s": 0.5}
    assert ask("undeploy_model", "m", timeout_s=5) == UnloadReport("m", 5, 4, 1, 0.5)
    assert host.asked == [("undeploy_model", {"model_id": "m"})]


@pytest.mark.parametrize("retries", [0, 3, -1, True])
def test_the_host_gets_the_retries_as_they_were_given(ask: Ask, host: Answers, retries: int) -> None:
    ask("load_model", "m", "/m", retries=retries)
    sent = host.asked[0][1]["retries"]
    assert (sent, type(sent)) == (retries, type(retries))


def test_without_retries_the_host_decides(ask: Ask, host: Answers) -> None:
    ask("load_model", "m", "/m")
    assert host.asked[0][1].get("retries") is None


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


def test_a_plan_is_asked_for_as_a_load_is_and_says_who_would_go(
    ask: Ask, host: Answers, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = {"need_bytes": 400, "need_source": "remembered", "budget_bytes": 1000, "free_bytes": 100}
    host.answer = {
        "model_id": "m",
        "outcome": "evict",
        **figures,
        "victims": [{"model_id": "a", "bytes": 300, "idle_s": 7.5, "reload_s": 2.0, "why": ""}],
        "holders": [{"model_id": "b", "bytes": 600, "why": "it is pinned"}],
        "a field of the future": 1,
    }
    plan = ask("plan_load", "m", "models/m", "mine", finder="files", options={"threads": 2})
    assert plan == LoadPlan(
        "m",
        "evict",
        **figures,
        victims=(Holder("a", 300, 7.5, 2.0),),
        holders=(Holder("b", 600, why="it is pinned"),),
    )
    assert plan.fits
    planned = {"model_id": "m", "path": str(tmp_path / "models/m"), "type": "mine", "finder": "files"}
    assert host.asked == [("plan_load", {**planned, "initializer": None, "options": {"threads": 2}})]


def test_a_plan_takes_the_arguments_of_the_load_that_it_is_of(ask: Ask, host: Answers) -> None:
    how = {"finder": "files", "initializer": "mine", "options": {"a": 1}}
    ask("load_model", "m", "/m", "mine", **how)
    host.answer = LoadPlan("m", "refuse", 1, "estimated", 1, 0, reason="it is bigger than the budget").to_dict()
    assert not ask("plan_load", "m", "/m", "mine", **how).fits
    (_, loaded), (_, planned) = host.asked
    assert {key: value for key, value in loaded.items() if key not in ("wait", "retries")} == planned


def test_a_model_is_pinned_and_unpinned(ask: Ask, host: Answers) -> None:
    host.answer = {**RECORD, "pinned": True}
    assert ask("pin_model", "m").pinned
    host.answer = RECORD
    assert not ask("unpin_model", "m").pinned
    assert host.asked == [
        ("pin_model", {"model_id": "m", "pinned": True}),
        ("pin_model", {"model_id": "m", "pinned": False}),
    ]


def test_the_memory_of_all_models_comes_with_what_unloads_gave_back(ask: Ask, host: Answers) -> None:
    last = UnloadReport("m", 5, 4, 1, 0.5)
    found = MemoryInfo(
        1000, "8 % of the machine", 600, 50, 350, ("a", "b"), (), None, {"room": 3}, 1, 2, 3, 4, 99, last
    )
    host.answer = {**found.to_dict(), "waiting": ["a", "b"], "paused": [], "a field of the future": 1}
    assert ask("memory_info") == found
    host.answer = {}
    assert ask("memory_info") == MemoryInfo()
    assert host.asked == [("memory_info", {})] * 2


def test_the_host_says_where_its_models_are_and_what_does_not_work(ask: Ask, host: Answers) -> None:
    facts = dict.fromkeys(("pid", "protocol", "models", "workers", "rss_bytes"), 1)
    facts |= dict.fromkeys(("epoch", "version", "endpoint", "runtime_dir", "state_dir", "python"), "x")
    host.answer = {**facts, "started_s": 1.0, "metrics_port": None}
    assert (ask("host_info").models_dir, ask("host_info").degraded) == (None, ())
    host.answer = {**host.answer, "models_dir": "/models", "degraded": ["/models cannot be read"]}
    assert ask("host_info").models_dir == "/models"
    assert ask("host_info").degraded == ("/models cannot be read",)
