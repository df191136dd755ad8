"""The supervisor's loop: what becomes of the effects of an event when one fails, and of work that takes too long."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, get_args

import pytest
from helpers import PATIENCE_S, at_most

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.shell import supervisor as module
from hostd.shell.supervisor import Supervisor
from hostd.shell.work import failing
from hostd.shell.work.component import Component, composed
from hostd.shell.work.raised import MAX_CHARS, ForeignError, as_host_error
from hostd.shell.work.threads import NotInTimeError, Threads, in_thread
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


OWN = {fx.Answer, fx.AnswerError, fx.Announce, fx.Stop}
"""What the supervisor carries out itself."""


class Table(Component):
    """A component that carries out what a test wants."""

    def __init__(self, handlers):
        self.handlers = lambda: handlers  # type: ignore[method-assign]


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
        self.supervisor = Supervisor(CoreConfig())
        if core is not None:
            self.supervisor.core = core
        self.clients = Clients()
        self.attach({Good: self._do, Bad: _fail, **handlers})

    def attach(self, handlers):
        """Have these carried out; nothing comes of all other effects, but for those of the supervisor itself."""
        others = dict.fromkeys(set(get_args(fx.Effect)) - OWN, lambda _: None)
        self.supervisor.attach(self.clients, Table({**others, **handlers}))

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


def run(story, core=None, handlers=None):
    async def main():
        rig = Rig(core, handlers or {})
        try:
            await story(rig)
        finally:
            rig.supervisor.close()

    asyncio.run(main())


def test_an_effect_that_fails_takes_no_other_with_it_and_a_broken_invariant_is_logged(caplog):
    async def story(rig):
        rig.supervisor.emit([Good("a"), Bad(ZeroDivisionError("first")), Good("b"), Bad(KeyError("second"))])
        rig.supervisor.emit([Bad(InternalError("no such row")), Good("last")])
        assert (rig.done, rig.raised) == (["a", "b", "last"], [])

    run(story, Scripted())
    raised = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert raised[:2] == ["first", "'second'"]
    assert "please report it" in caplog.text


@pytest.mark.parametrize("kind", failing.RETRIED)
def test_what_must_be_done_is_tried_again_until_it_is(kind, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    failures = iter([OSError("no descriptor left"), RuntimeError("can't start new thread")])
    effect = kind(*[None] * len(getattr(kind, "_fields", ())))

    async def story(rig):
        def carry_out(tried=effect):
            assert tried is effect
            for error in failures:
                raise error
            rig.last.set()

        rig.supervisor.stopped.set = carry_out  # type: ignore[method-assign] - what Stop means
        rig.attach({kind: carry_out} if kind not in OWN else {})
        rig.supervisor.emit([effect])
        await rig.to_the_last()

    run(story, Scripted())


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


def test_every_effect_has_one_handler():
    whole = dict.fromkeys(get_args(fx.Effect), _fail)
    assert composed(whole) == whole
    with pytest.raises(InternalError, match=r"none for \['KillWorker', 'SpawnWorker'\], several for \['Stop'\]"):
        composed({kind: _fail for kind in whole if kind not in (fx.SpawnWorker, fx.KillWorker)}, {fx.Stop: _fail})


def test_a_slow_effect_is_a_coroutine_that_returns_an_event_or_fails(caplog):
    came = []

    class Noting(Scripted):
        def handle(self, event, now):
            if not isinstance(event, list):
                came.append(event)
            return event if isinstance(event, list) else [Good("last")] if len(came) == 3 else []

    async def slow(effect):
        await asyncio.sleep(0)
        if effect.is_pinned:
            raise (NotFoundError if effect.model_id == "gone" else OSError)("cannot")
        return ev.PinKept(effect.files_id, None) if effect.model_id else None

    async def story(rig):
        effects = [("", False), ("m", False), ("gone", True), ("lost", True)]
        rig.supervisor.emit(
            [fx.KeepPin(ev.FilesId(n), ev.ModelId(name), is_pinned) for n, (name, is_pinned) in enumerate(effects)]
        )
        await rig.to_the_last()

    run(story, Noting(), {fx.KeepPin: slow})
    assert [(event.files_id, None if event.error is None else event.error.message) for event in came] == [
        (1, None),
        (2, "cannot"),
        (3, "the host could not do it: cannot"),
    ]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError], "an answer is no fault"


def test_what_waits_at_the_end_is_given_up():
    ended = []

    async def slow(_):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("given up")

    async def story(rig):
        rig.supervisor.emit([fx.KeepPin(ev.FilesId(1), ev.ModelId("m"), is_pinned=True)])
        await asyncio.sleep(0)
        rig.supervisor.emit([fx.KeepPin(ev.FilesId(2), ev.ModelId("m"), is_pinned=True)])  # takes no first step

    run(story, Scripted(), {fx.KeepPin: slow})
    assert ended == ["given up"]


def test_a_worker_that_cannot_be_spawned_is_a_load_that_has_failed():
    def refuse(_):
        raise RuntimeError("can't start new thread")

    said = []

    async def story(rig):
        found = {
            fx.FindSpec: lambda e: rig.supervisor.emit(ev.SpecFound(e.model_id, e.generation, SPEC, "/m")),
            fx.PredictSize: lambda e: rig.supervisor.emit(
                ev.SizePredicted(e.model_id, e.generation, ev.Prediction(1, "assumed"))
            ),
            fx.SpawnWorker: refuse,
        }
        rig.clients.refuse = lambda _, error: (said.append(error.message), rig.last.set())  # type: ignore[method-assign]
        rig.attach(found)
        source = ev.LoadSource("/m", ev.STANDALONE, None, None, {})
        rig.supervisor.emit(ev.LoadRequested(CALLER, ev.ModelId("m"), source, True, None, 0))
        await rig.to_the_last()

    run(story)
    assert said == ["the host could not do it: can't start new thread"]


def test_c34_the_host_stops_although_the_answer_to_its_shutdown_cannot_be_given():
    def refuse(*_):
        raise OSError("no socket")

    async def story(rig):
        rig.clients.send = refuse  # type: ignore[method-assign]
        rig.supervisor.emit(ev.ShutdownRequested(CALLER))
        await asyncio.wait_for(rig.supervisor.stopped.wait(), PATIENCE_S)

    run(story)


# Answers


class Clients:
    """Clients that are answered, and with what."""

    def __init__(self):
        self.got = []

    def handlers(self):
        return {}

    def send(self, client, frames):
        envelope = wire.unpack([bytes(frame) for frame in frames])
        self.got.append((client, envelope.id, decode(envelope.body, envelope.buffers)))

    def refuse(self, caller, error):
        self.got.append((*caller, error))


def test_what_many_wait_for_is_encoded_once(monkeypatch):
    """Thousands may wait for one load; its record takes 130 us to encode, and the loop does nothing else meanwhile."""
    encoded = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda value: encoded.append(value) or encode(value))
    callers = [ev.Caller(ev.ClientId(b"c"), number) for number in range(1, 9)]

    async def story(rig):
        clients = rig.clients
        first, second = {"n": 1}, {"n": 2}
        rig.supervisor.emit([fx.Answer(caller, first if caller.request_id < 6 else second) for caller in callers])
        assert clients.got == [(b"c", number, first if number < 6 else second) for number in range(1, 9)]
        assert encoded == [first, second]
        first["n"] = 3
        rig.supervisor.emit([fx.Answer(callers[0], first)])
        assert clients.got[-1] == (b"c", 1, {"n": 3}), "what has changed since is encoded again"
        rig.supervisor.emit([fx.Answer(callers[0], object())])
        assert "the answer cannot be sent" in str(clients.got[-1][2])

    run(story, Scripted())


# Work in threads


async def outcome_of(executor, work, within_s):
    try:
        return await asyncio.wait_for(in_thread(executor, work, within_s=within_s), PATIENCE_S)
    except Exception as error:  # noqa: BLE001 - a test looks at it
        return error


def test_work_that_takes_too_long_is_given_up_whether_or_not_it_has_begun():
    release, begun = threading.Event(), []

    def raises():
        raise TimeoutError("its database did not answer")

    async def story(rig):
        with ThreadPoolExecutor(1) as executor:
            try:
                with at_most(PATIENCE_S / 2, "giving up"):
                    assert isinstance(await outcome_of(executor, release.wait, 0.05), NotInTimeError)
                    late = await outcome_of(executor, lambda: begun.append(1), 0.05)
                assert isinstance(late, NotInTimeError)
            finally:
                release.set()
            assert await outcome_of(executor, lambda: "in time", PATIENCE_S) == "in time"
            own = await outcome_of(executor, raises, PATIENCE_S)
            assert (type(own), str(own)) == (TimeoutError, "its database did not answer")
        assert (begun, rig.raised) == ([], [])

    run(story)


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


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        *(
            (error("over"), ForeignError, f"{error.__name__}: over")
            for error in (StopIteration, StopAsyncIteration, SystemExit, asyncio.CancelledError, FalseError)
        ),
        *((error(), ForeignError, error.__name__) for error in (KeyboardInterrupt, GeneratorExit)),
        (ChangingError(), ForeignError, "ChangingError: read once"),
        (ValueError(Holder()), ForeignError, "ValueError: read once"),
        (ValueError("x" * 1_000_000), ForeignError, "ValueError: " + "x" * MAX_CHARS),
        (OSError(2, "no such thing"), FileNotFoundError, "[Errno 2] no such thing"),
        (NotFoundError("gone"), NotFoundError, "gone"),
        (NotFoundError("x" * 1_000_000), NotFoundError, "x" * MAX_CHARS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_work_in_a_thread_raises_is_told_and_can_be_read(raised, kind, says):
    def work():
        raise raised

    async def story(rig):
        with Threads(1, "test") as executor:
            error = await outcome_of(executor, work, PATIENCE_S)
            assert await in_thread(executor, lambda: raised) is raised, "what it returns is its result"
        assert type(error) is kind
        assert [str(error), str(error)] == [says, says]
        assert rig.raised == []

    run(story, Scripted())


def test_an_error_that_says_nothing_is_called_by_its_name():
    for error, says in (
        (ValueError(), "it failed: ValueError"),
        (StopIteration(1), "it failed: StopIteration: 1"),
        (TimeoutError("late"), "it failed: late"),
        (TimeoutError(), "it failed: TimeoutError"),
        (ForeignError("Own: o"), "it failed: Own: o"),
    ):
        assert as_host_error(error, "it failed").message == says
