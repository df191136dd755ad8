"""Requests in flight, without a socket: every one ends once, and what ends one says why."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import msgpack
import pytest

from hostd.client.tracker import GRACE_S, STREAM_WINDOW, Pending, PendingStream, Tracker, again
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import (
    CancelledError,
    HostError,
    InvalidArgumentError,
    MessageTooLargeError,
    NotFoundError,
    ProtocolError,
    UnavailableError,
)


def result(id: int, value: object) -> list[wire.Buffer]:
    body, buffers = encode(value)
    return wire.pack(msg.RESULT, id, body=body, buffers=buffers)


def item(id: int, value: object) -> list[wire.Buffer]:
    return wire.pack(msg.ITEM, id, body=encode(value)[0])


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


# What goes out


def test_a_call_has_target_arguments_and_deadline(tracker: Tracker) -> None:
    pending, frames = tracker.call("m", "predict", [1, "two"], {"k": 3}, 1.5)
    sent = wire.unpack(frames)
    assert (sent.kind, sent.id, sent.deadline_ms) == (msg.CALL, pending.id, 1500)
    assert msg.unpack_target(sent.header) == msg.Target("m", "predict")
    assert decode(sent.body) == [[1, "two"], {"k": 3}]
    assert len(tracker) == 1


def test_a_stream_opens_with_a_window(tracker: Tracker) -> None:
    pending, frames = tracker.stream("m", "generate", [3], {}, None)
    sent = wire.unpack(frames)
    assert (sent.kind, sent.deadline_ms) == (msg.STREAM, wire.MAX_DEADLINE_MS)
    assert msg.unpack_target(sent.header).window == STREAM_WINDOW
    assert isinstance(pending, PendingStream)


def test_verbs_and_subscriptions_carry_a_map(tracker: Tracker) -> None:
    for pending, frames in (tracker.verb("get_model", {"model_id": "m"}, 2), tracker.subscribe("events", {"a": 1})):
        sent = wire.unpack(frames)
        assert (sent.kind, sent.id) == (msg.VERB, pending.id)
        assert msg.unpack_verb(sent.header) in ("get_model", "events")
        assert msg.unpack_map(sent) in ({"model_id": "m"}, {"a": 1})


def test_ids_are_never_used_twice_and_equal_calls_have_equal_headers(tracker: Tracker) -> None:
    sent = [wire.unpack(tracker.call("m", "x", [], {}, 1)[1]) for _ in range(100)]
    assert len({envelope.id for envelope in sent}) == 100
    assert len({envelope.header for envelope in sent}) == 1


@pytest.mark.parametrize(
    ("timeout_s", "deadline_ms"),
    [
        (None, wire.MAX_DEADLINE_MS),
        (0, 1),
        (-5, 1),
        (0.0001, 1),
        (1, 1000),
        (10**9, wire.MAX_DEADLINE_MS - 1),
        (float("inf"), wire.MAX_DEADLINE_MS - 1),
    ],
)
def test_every_timeout_is_a_deadline(tracker: Tracker, timeout_s: float | None, deadline_ms: int) -> None:
    assert wire.unpack(tracker.call("m", "x", [], {}, timeout_s)[1]).deadline_ms == deadline_ms


@pytest.mark.parametrize(
    ("model_id", "method", "args", "timeout_s", "error"),
    [
        ("m", "x", [object()], 1, InvalidArgumentError),
        ("\ud800", "x", [], 1, InvalidArgumentError),
        ("m" * 70_000, "x", [], 1, MessageTooLargeError),
        ("m", ["unhashable"], [], 1, TypeError),
        ("m", "x", [], "soon", TypeError),
        ("m", "x", [bytes(9000)], 1, MessageTooLargeError),
    ],
)
def test_a_request_that_cannot_be_made_leaves_nothing_behind(
    tracker: Tracker, model_id: str, method: Any, args: list[Any], timeout_s: Any, error: type[Exception]
) -> None:
    tracker.welcome = {"max_message_bytes": 1000}
    for make in (tracker.call, tracker.stream):
        with pytest.raises(error):
            make(model_id, method, args, {}, timeout_s)
    assert len(tracker) == 0


def test_a_request_over_the_hosts_limit_is_refused_here_with_both_numbers(tracker: Tracker) -> None:
    tracker.welcome = {"max_message_bytes": 100_000}
    tracker.call("m", "x", [bytes(90_000)], {}, 1)
    with pytest.raises(MessageTooLargeError, match=r"limits\.max_message_bytes") as caught:
        tracker.call("m", "x", [bytes(100_001)], {}, 1)
    assert caught.value.details["limit_bytes"] == 100_000


def test_the_memory_of_headers_is_bounded(tracker: Tracker) -> None:
    for number in range(10_000):
        pending, _ = tracker.call(f"m{number}", "x", [], {}, 1)
        tracker.forget(pending, CancelledError("enough"))
    assert len(tracker._headers) <= 4096


# What comes in


def test_an_answer_ends_its_request_alone(tracker: Tracker) -> None:
    first, _ = tracker.call("m", "x", [], {}, 1)
    second, _ = tracker.call("m", "x", [], {}, 1)
    tracker.receive(result(second.id, "two"))
    assert (first.is_done, second.is_done, len(tracker)) == (False, True, 1)
    assert second.result() == "two"
    assert repr(first).endswith("waiting>")
    assert repr(second).endswith("done>")


def test_an_error_is_raised_as_itself_every_time_and_never_the_same_object(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    tracker.receive(msg.pack_error(pending.id, NotFoundError("gone", details={"a": 1})))
    raised = []
    for _ in range(2):
        with pytest.raises(NotFoundError, match="gone") as caught:
            pending.result()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert raised[0].details == {"a": 1}


def test_what_was_raised_holds_nothing_in_a_cycle(tracker: Tracker) -> None:
    class Argument:
        pass

    def call(argument: Argument, pending: Pending) -> None:
        pending.result()

    pending, _ = tracker.call("m", "x", [], {}, 1)
    tracker.receive(msg.pack_error(pending.id, NotFoundError("gone")))
    argument = Argument()
    watched = weakref.ref(argument)
    gc.disable()
    try:
        with contextlib.suppress(NotFoundError):
            call(argument, pending)
        del argument
        assert watched() is None, "the argument of a call that failed waits for the cycle collector"
    finally:
        gc.enable()


def test_a_copy_of_an_error_is_of_its_class_even_with_another_constructor() -> None:
    class OddError(NotFoundError):
        def __init__(self) -> None:
            super().__init__("odd", details={"a": 1})

    copy = again(OddError())
    assert type(copy) is OddError
    assert (str(copy), copy.details) == ("odd", {"a": 1})


def test_an_answer_that_nobody_waits_for_is_dropped(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    tracker.receive(result(pending.id + 1, "x"))
    tracker.receive(item(pending.id + 1, "x"))
    tracker.receive(wire.pack(99, 0))
    assert not pending.is_done
    tracker.receive(result(pending.id, 1))
    tracker.receive(result(pending.id, 2))
    assert pending.result() == 1


def test_a_batch_is_all_of_its_messages(tracker: Tracker) -> None:
    pendings = [tracker.call("m", "x", [], {}, 1)[0] for _ in range(3)]
    tracker.receive([wire.pack_batch([result(pending.id, pending.id)[0] for pending in pendings])])
    assert [pending.result() for pending in pendings] == [pending.id for pending in pendings]


def test_what_is_no_message_is_a_typed_error(tracker: Tracker) -> None:
    for frames in ([], [b"x"], [b"\x17\x01" + bytes(13) + b"\x05"], [b"\x02\x09" + bytes(14)]):
        with pytest.raises(HostError):
            tracker.receive(frames)


def test_a_result_that_cannot_be_read_is_an_error_of_its_request_only(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    tracker.receive(wire.pack(msg.RESULT, pending.id, body=b"\xc1"))
    with pytest.raises(InvalidArgumentError):
        pending.result()


def test_a_request_without_an_answer_has_no_result(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    with pytest.raises(UnavailableError, match="no answer yet"):
        pending.result()


def test_the_loss_of_the_connection_ends_everything_once(tracker: Tracker) -> None:
    pendings = [tracker.call("m", "x", [], {}, 1)[0] for _ in range(3)]
    tracker.receive(result(pendings[0].id, "in time"))
    tracker.lose(UnavailableError("lost"))
    tracker.receive(result(pendings[1].id, "too late"))
    assert pendings[0].result() == "in time"
    for pending in pendings[1:]:
        with pytest.raises(UnavailableError, match="lost"):
            pending.result()
    assert len(tracker) == 0


def test_a_request_that_is_forgotten_ends_and_its_answer_is_dropped(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    tracker.forget(pending, CancelledError("enough"))
    tracker.receive(result(pending.id, 1))
    with pytest.raises(CancelledError):
        pending.result()
    tracker.forget(pending, UnavailableError("again"))
    with pytest.raises(CancelledError):
        pending.result()


def test_every_listener_hears_of_the_end_also_if_one_leaves_meanwhile(tracker: Tracker) -> None:
    pending, _ = tracker.call("m", "x", [], {}, 1)
    heard: list[str] = []

    def leave() -> None:
        heard.append("left")
        pending.listeners.remove(leave)

    pending.listeners.extend([leave, lambda: heard.append("stayed")])
    tracker.receive(result(pending.id, 1))
    assert heard == ["left", "stayed"]


def test_only_what_has_a_deadline_can_be_overdue(tracker: Tracker) -> None:
    soon, later, _never = (tracker.call("m", "x", [], {}, 1)[0] for _ in range(3))
    soon.deadline_s, later.deadline_s = 1.0, 2.0
    assert [tracker.overdue(now) for now in (0.9 + GRACE_S, 1.0 + GRACE_S, 9.0)] == [[], [soon], [soon, later]]


# Streams


def test_items_wait_in_order_and_listeners_hear_of_each(tracker: Tracker) -> None:
    pending, _ = tracker.stream("m", "x", [], {}, 1)
    heard: list[int] = []
    pending.listeners.append(lambda: heard.append(len(pending.items)))
    for value in "abc":
        tracker.receive(item(pending.id, value))
    tracker.receive(wire.pack(msg.END, pending.id, body=encode(None)[0]))
    assert [pending.take()[0] for _ in range(3)] == ["a", "b", "c"]
    assert heard == [1, 2, 3, 3]
    assert pending.is_done
    assert len(tracker) == 0


def test_credit_is_granted_half_a_window_at_a_time(tracker: Tracker) -> None:
    pending, _ = tracker.stream("m", "x", [], {}, 1)
    for value in range(STREAM_WINDOW):
        tracker.receive(item(pending.id, value))
    credits = [pending.take()[1] for _ in range(STREAM_WINDOW)]
    assert sum(credits) == STREAM_WINDOW
    assert [at for at, credit in enumerate(credits) if credit] == [STREAM_WINDOW // 2 - 1, STREAM_WINDOW - 1]


def test_an_item_that_cannot_be_read_costs_no_credit(tracker: Tracker) -> None:
    pending, _ = tracker.stream("m", "x", [], {}, 1)
    for _ in range(STREAM_WINDOW // 2):
        tracker.receive(wire.pack(msg.ITEM, pending.id, body=b"\xc1"))
    tracker.receive(item(pending.id, "good"))
    for _ in range(STREAM_WINDOW // 2):
        with pytest.raises(InvalidArgumentError):
            pending.take()
    assert pending.take() == ("good", STREAM_WINDOW // 2 + 1)


# The first answer


def test_a_welcome_is_kept_if_it_is_a_map(tracker: Tracker) -> None:
    pending, _ = tracker.hello()
    tracker.receive(msg.pack_map(msg.WELCOME, pending.id, {"epoch": "e"}))
    tracker.accept_welcome(pending)
    assert tracker.welcome == {"epoch": "e"}
    pending, _ = tracker.hello()
    tracker.receive(wire.pack(msg.WELCOME, pending.id, body=msgpack.packb([1])))
    with pytest.raises(ProtocolError, match="not a map"):
        tracker.accept_welcome(pending)
