"""The supervisor's loop: what becomes of the effects of an event when one fails, and of work that takes too long."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import NamedTuple, get_args

import pytest
from helpers import PATIENCE_S, at_most
from loops import on_a_loop

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.shell import failing
from hostd.shell import supervisor as module
from hostd.shell.raised import MAX_CHARS, ForeignError
from hostd.shell.supervisor import NotInTimeError, Supervisor, as_host_error
from hostd.shell.threads import Threads
from hostd.shell.transport.poller import Poller
from hostd.shell.transport.workers import Backend
from hostd_workers.wire import frames as wire
from hostd_workers.wire.codec import decode
from hostd_workers.wire.errors import InternalError, NotFoundError, UnavailableError

CALLER = ev.Caller(ev.ClientId(b"c"), 1)
SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)


class Good(NamedTuple):
    """An effect that can be carried out."""

    name: str


class Bad(NamedTuple):
    """An effect that has its handler raise this."""

    error: Exception


class Scripted:
    """A core that takes lists of effects as events."""

    def handle(self, event, now):
        return event

    def next_deadline(self):
        return None


class Rig:
    """A supervisor without sockets; `done` are the effects that it carried out, `raised` what its loop heard of."""

    def __init__(self, core, handlers):
        loop = asyncio.get_running_loop()
        self.done = []
        self.last = asyncio.Event()
        self.raised = []
        loop.set_exception_handler(lambda _, context: self.raised.append(context["exception"]))
        self.poller = Poller(loop)
        self.supervisor = Supervisor(CoreConfig(), self.poller)
        if core is not None:
            self.supervisor.core = core
        own = {Good: self._do, Bad: _fail}
        self.supervisor.attach(None, Backend(self.supervisor.emit, 1), {**own, **handlers})  # type: ignore[arg-type]

    def _do(self, effect):
        self.done.append(effect.name)
        if effect.name == "last":
            self.last.set()

    async def to_the_last(self):
        """Return what has been done when the effect of this name is carried out."""
        await asyncio.wait_for(self.last.wait(), PATIENCE_S)
        return self.done


def _fail(effect):
    raise effect.error


@asynccontextmanager
async def running(core=None, **handlers):
    """A supervisor of this core, with handlers by the names of their effects."""
    rig = Rig(core, {getattr(fx, name): handler for name, handler in handlers.items()})
    try:
        yield rig
    finally:
        rig.supervisor.close()
        rig.poller.close()


@on_a_loop
async def test_an_effect_that_fails_takes_no_other_with_it_and_a_broken_invariant_is_logged(caplog):
    async with running(Scripted()) as rig:
        rig.supervisor.emit([Good("a"), Bad(ZeroDivisionError("first")), Good("b"), Bad(KeyError("second"))])
        rig.supervisor.emit([Bad(InternalError("no such row")), Good("last")])
        assert (rig.done, rig.raised) == (["a", "b", "last"], [])
    raised = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert raised[:2] == ["first", "'second'"]
    assert "please report it" in caplog.text


@pytest.mark.parametrize("kind", failing.RETRIED)
@on_a_loop
async def test_what_must_be_done_is_tried_again_until_it_is(kind, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    failures = iter([OSError("no descriptor left"), RuntimeError("can't start new thread")])
    effect = kind(*[None] * len(getattr(kind, "_fields", ())))

    async with running(Scripted()) as rig:

        def carry_out(tried):
            assert tried is effect
            for error in failures:
                raise error
            rig.last.set()

        rig.supervisor.attach(None, Backend(rig.supervisor.emit, 1), {kind: carry_out})  # type: ignore[arg-type]
        rig.supervisor.emit([effect])
        await rig.to_the_last()


def test_of_every_effect_it_is_known_what_its_failure_means():
    kinds = [*failing.RETRIED, *failing.LOST, *failing.FAILURES]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == set(get_args(fx.Effect))
    for kind, event_of in failing.FAILURES.items():  # the core takes it, and it is about the same thing
        effect = kind(*range(1000, 1000 + len(kind._fields)))
        event = event_of(effect, UnavailableError("why"), 5.0)
        assert isinstance(event, get_args(ev.Event))
        assert event[0] == effect[0]
        for name in {"worker_id", "files_id", "model_id", "generation", "call_id", "sync_id"} & {*kind._fields}:
            assert getattr(event, name, getattr(effect, name)) == getattr(effect, name)


@on_a_loop
async def test_a_worker_that_cannot_be_spawned_is_a_load_that_has_failed():
    def refuse(_):
        raise RuntimeError("can't start new thread")

    said = []

    async with running() as rig:
        found = {
            fx.FindSpec: lambda e: rig.supervisor.emit(ev.SpecFound(e.model_id, e.generation, SPEC, "/m")),
            fx.PredictSize: lambda e: rig.supervisor.emit(
                ev.SizePredicted(e.model_id, e.generation, ev.Prediction(1, 1, "assumed"))
            ),
            fx.SpawnWorker: refuse,
            fx.AnswerError: lambda e: (said.append(e.error.message), rig.last.set()),
            fx.LeaveEntry: lambda _: None,
        }
        rig.supervisor.attach(None, Backend(rig.supervisor.emit, 1), found)  # type: ignore[arg-type]
        source = ev.LoadSource("/m", ev.STANDALONE, None, None, {})
        rig.supervisor.emit(ev.LoadRequested(CALLER, ev.ModelId("m"), source, True, None, 0))
        await rig.to_the_last()
    assert said == ["the host could not do it: can't start new thread"]


@on_a_loop
async def test_c34_the_host_stops_although_the_answer_to_its_shutdown_cannot_be_given():
    def refuse(effect):
        raise OSError("no socket")

    async with running(Answer=refuse) as rig:
        rig.supervisor.emit(ev.ShutdownRequested(CALLER))
        await asyncio.wait_for(rig.supervisor.stopped.wait(), PATIENCE_S)


class Clients:
    """Clients that are answered, and with what."""

    def __init__(self):
        self.got = []

    def send(self, client, frames):
        envelope = wire.unpack([bytes(frame) for frame in frames])
        self.got.append((client, envelope.id, decode(envelope.body, envelope.buffers)))

    def refuse(self, caller, error):
        self.got.append((*caller, error))


@on_a_loop
async def test_what_many_wait_for_is_encoded_once(monkeypatch):
    """Thousands may wait for one load; its record takes 130 us to encode, and the loop does nothing else meanwhile."""
    encoded = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda value: encoded.append(value) or encode(value))
    callers = [ev.Caller(ev.ClientId(b"c"), number) for number in range(1, 9)]

    async with running(Scripted()) as rig:
        rig.supervisor.frontend = clients = Clients()  # type: ignore[assignment]
        first, second = {"n": 1}, {"n": 2}
        rig.supervisor.emit([fx.Answer(caller, first if caller.request_id < 6 else second) for caller in callers])
        assert clients.got == [(b"c", number, first if number < 6 else second) for number in range(1, 9)]
        assert encoded == [first, second]
        first["n"] = 3
        rig.supervisor.emit([fx.Answer(callers[0], first)])
        assert clients.got[-1] == (b"c", 1, {"n": 3}), "what has changed since is encoded again"
        rig.supervisor.emit([fx.Answer(callers[0], object())])
        assert "the answer cannot be sent" in str(clients.got[-1][2])


async def outcome_of(rig, executor, work, within_s):
    future = asyncio.get_running_loop().create_future()
    rig.supervisor.in_thread(executor, work, future.set_result, within_s=within_s)
    return await asyncio.wait_for(future, PATIENCE_S)


@on_a_loop
async def test_work_that_takes_too_long_is_given_up_whether_or_not_it_has_begun():
    release, begun = threading.Event(), []

    def raises():
        raise TimeoutError("its database did not answer")

    async with running() as rig:
        with ThreadPoolExecutor(1) as executor:
            try:
                with at_most(PATIENCE_S / 2, "giving up"):
                    assert isinstance(await outcome_of(rig, executor, release.wait, 0.05), NotInTimeError)
                    late = await outcome_of(rig, executor, lambda: begun.append(1), 0.05)
                assert isinstance(late, NotInTimeError)
            finally:
                release.set()
            assert await outcome_of(rig, executor, lambda: "in time", PATIENCE_S) == "in time"
            own = await outcome_of(rig, executor, raises, PATIENCE_S)
            assert (type(own), str(own)) == (TimeoutError, "its database did not answer")
        assert (begun, rig.raised) == ([], [])


class FalseError(Exception):
    """Is false, as an empty container is."""

    def __len__(self):
        return 0


class ChangingError(Exception):
    """Can be read once."""

    def __init__(self):
        self.read = 0

    def __str__(self):
        self.read += 1
        if self.read > 1:
            raise SystemExit("read again")
        return "read once"


class Holder:
    """An argument that can be read once."""

    __str__ = __repr__ = ChangingError.__str__

    def __init__(self):
        self.read = 0


RAISED = [
    *((error("over"), error, "over") for error in (StopIteration, StopAsyncIteration)),
    (SystemExit(3), SystemExit, "3"),
    *((error(), error, "") for error in (KeyboardInterrupt, GeneratorExit)),
    (asyncio.CancelledError("c"), ForeignError, "CancelledError: c"),
    (FalseError("false"), ForeignError, "FalseError: false"),
    (ChangingError(), ForeignError, "ChangingError: read once"),
    (ValueError(Holder()), ForeignError, "ValueError: read once"),
    (ValueError("x" * 1_000_000), ForeignError, "ValueError: " + "x" * MAX_CHARS),
    (OSError(2, "no such thing"), FileNotFoundError, "[Errno 2] no such thing"),
    (NotFoundError("gone"), NotFoundError, "gone"),
    (NotFoundError("x" * 1_000_000), NotFoundError, "x" * MAX_CHARS),
]


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    RAISED,
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@on_a_loop
async def test_whatever_work_in_a_thread_raises_is_told_and_can_be_read(raised, kind, says):
    def work():
        raise raised

    async with running(Scripted()) as rig:
        with Threads(1, "test") as executor:
            error = await outcome_of(rig, executor, work, None)
            assert await outcome_of(rig, executor, lambda: raised, None) is raised, "what it returns is its result"
        assert type(error) is kind
        assert [str(error), str(error)] == [says, says]
        assert rig.raised == []


def test_an_error_that_says_nothing_is_called_by_its_name():
    for error, says in (
        (ValueError(), "it failed: ValueError"),
        (StopIteration(1), "it failed: StopIteration: 1"),
        (TimeoutError("late"), "it failed: late"),
        (TimeoutError(), "it failed: TimeoutError"),
        (ForeignError("Own: o"), "it failed: Own: o"),
    ):
        assert as_host_error(error, "it failed").message == says
