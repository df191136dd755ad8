"""Workers that lose their connection: most of them exit in a moment, the others are killed and never serve again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hostd.core import events as ev
from hostd.core.losing import DISCONNECT_GRACE_S
from hostd_workers.wire.errors import AbortedError, ModelError, UnavailableError

if TYPE_CHECKING:
    from driver import Driver

STAGES = ("SPAWNING", "STARTED", "LOADING", "MEASURING", "READY")


def is_lost(error: object) -> bool:
    return isinstance(error, UnavailableError) and "it lost its connection to the host (end of file)" in error.message


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_load_fails_if_its_worker_lives_on_without_a_connection(host: Driver, stage: str) -> None:
    caller = host.up_to(stage)
    host.disconnected()
    host.pass_time(DISCONNECT_GRACE_S / 2)
    assert (host.killed(), host.is_waiting(caller)) == ([], True)
    host.pass_time(DISCONNECT_GRACE_S / 2)
    assert host.killed() == [host.worker]
    if stage == "SPAWNING":
        host.spawned()
    host.exited("killed by SIGKILL")
    assert host.is_waiting(caller), "there is no answer without the proof"
    host.gone()
    error = host.error(caller)
    assert is_lost(error)
    assert error.details["model_id"] == "m"
    assert host.state() is None
    assert host.core.next_deadline() is None


def test_calls_of_a_worker_that_lives_on_without_a_connection_end_with_that_reason(host: Driver) -> None:
    host.up_to("READY")
    calls = [host.call(), host.call(method="generate")]
    host.disconnected()
    assert host.state() == "READY", "the exit may follow, and says more"
    host.pass_time(DISCONNECT_GRACE_S)
    assert all(is_lost(host.error(call)) for call in calls)
    assert host.killed() == [host.worker]
    assert host.state() == "FAILED"
    model = host.model()
    assert model is not None
    assert "exec" in model.reason
    host.gone()
    assert host.core.next_deadline() is None
    host.load()
    host.up()
    assert host.state() == "READY"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_an_exit_in_time_is_the_better_reason(host: Driver, stage: str) -> None:
    caller = host.up_to(stage)
    call = host.call() if stage == "READY" else None
    host.said_last_words(ModelError("SystemExit: 3"))
    host.disconnected()
    host.pass_time(DISCONNECT_GRACE_S / 2)
    host.exited("exit code 3")
    host.gone()
    error = host.error(caller if call is None else call)
    assert error.message == "the worker of model 'm' died: exit code 3; its last words: SystemExit: 3"
    assert host.core.next_deadline() is None


def test_the_end_of_a_worker_that_is_killed_ends_its_connection_too(host: Driver) -> None:
    host.up_to("READY")
    unload = host.unload()
    host.disconnected()
    host.pass_time(DISCONNECT_GRACE_S)
    assert host.killed() == []
    host.exited("killed by SIGKILL")
    host.gone()
    assert host.answer(unload).processes == 1  # type: ignore[attr-defined]
    assert host.feed(ev.WorkerDisconnected(host.worker, "too late")) == []
    assert host.core.next_deadline() is None


def test_a_drain_that_nobody_can_end_is_over_before_its_time(host: Driver) -> None:
    host.up_to("READY")
    call = host.call()
    unload = host.unload()
    assert host.worker_state() == "DRAINING"
    host.disconnected()
    host.pass_time(DISCONNECT_GRACE_S)
    assert is_lost(host.error(call))
    assert host.killed() == [host.worker]
    host.gone()
    assert host.answer(unload).processes == 1  # type: ignore[attr-defined]


def test_nobody_speaks_for_a_worker_after_its_connection_has_ended(host: Driver) -> None:
    """A program that the model started in its place, or anybody else that has got the token."""
    host.up_to("STARTED")
    host.disconnected()
    host.greeted()
    assert (host.worker_state(), host.effects) == ("SPAWNING", [])
    other = host.load("other")
    host.found()
    host.started()
    host.disconnected()
    host.loaded()
    assert (host.worker_state(), host.effects) == ("LOADING", [])
    host.not_loaded(ModelError("not ours"))
    host.pass_time(DISCONNECT_GRACE_S)
    host.gone()
    assert is_lost(host.error(other))


def test_a_load_that_lost_its_worker_while_it_was_measured_is_not_ready_for_a_moment(host: Driver) -> None:
    caller = host.up_to("MEASURING")
    host.disconnected()
    host.measured()
    assert host.worker_state() == "LOADING"
    assert host.is_waiting(caller)
    host.pass_time(DISCONNECT_GRACE_S)
    host.gone()
    assert is_lost(host.error(caller))


def test_a_second_end_of_the_connection_gives_no_more_time(host: Driver) -> None:
    host.up_to("READY")
    host.disconnected()
    host.pass_time(DISCONNECT_GRACE_S / 2)
    host.disconnected(reason="again")
    host.pass_time(DISCONNECT_GRACE_S / 2)
    assert host.killed() == [host.worker]
    model = host.model()
    assert model is not None
    assert "(end of file)" in model.reason


def test_an_unload_meanwhile_waits_for_nothing(host: Driver) -> None:
    caller = host.up_to("LOADING")
    host.disconnected()
    host.unload()
    assert host.killed() == [host.worker]
    assert isinstance(host.error(caller), AbortedError)
    host.pass_time(DISCONNECT_GRACE_S)
    assert host.killed() == []
    host.gone()
    assert host.core.next_deadline() is None
