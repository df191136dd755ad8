"""Everything at once on one channel, and nothing is lost."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from calls import Connect, Fake, Waiting, begin, call, outcome_of, stream
from fake_host import FakeHost, echo
from helpers import eventually

from hostd.client._sync.calls import PendingCall, TooShortError
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


def storm(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer most things, some with errors."""
    for frames in echo(host, request):
        if request.kind == msg.CALL and request.id % 11 == 0:
            yield msg.pack_error(request.id, DeadlineExceededError("as it happens"))
        else:
            yield frames


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_calls_streams_cancels_and_short_waits_loses_nothing(
    fake: Fake, channel: Connect, seed: int
) -> None:
    fake(storm)
    one = channel()

    def work(number: int) -> int:
        chance = random.Random(seed * 1000 + number)
        done = 0
        for turn in range(60):
            value = f"{number}.{turn}" * (1 + number * turn)  # of many sizes, above and below all limits
            match chance.randrange(6):
                case 0:
                    pending = PendingCall(one, begin(one, value), None)
                    if chance.random() < 0.5:
                        pending.cancel()
                    else:
                        assert outcome_of(pending.result) in (value, DeadlineExceededError)
                case 1:
                    items = stream(one, 100)
                    assert next(items) == 0
                    if chance.random() < 0.5:
                        items.close()
                    elif chance.random() < 0.5:
                        assert list(items) == list(range(1, 100))
                case 2:
                    pending = PendingCall(one, begin(one, value), None)
                    hurried = outcome_of(lambda pending=pending: pending.result(0.0001))
                    assert hurried in (value, DeadlineExceededError, TooShortError)
                    assert outcome_of(pending.result) in (value, DeadlineExceededError)
                case 3:
                    pendings = [PendingCall(one, begin(one, n), None) for n in range(10)]
                    assert all(outcome_of(p.result) in (n, DeadlineExceededError) for n, p in enumerate(pendings))
                case _:
                    assert outcome_of(lambda value=value: call(one, value)) in (value, DeadlineExceededError)
            done += 1
        return done

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(work, range(32))) == [60] * 32
    assert not one._lead.locked()
    assert len(one._followers) == 0
    assert outcome_of(lambda: call(one, "after the storm", 20)) in ("after the storm", DeadlineExceededError)


@pytest.mark.heavy
def test_hosts_that_come_and_go_under_many_threads_leave_nobody_waiting(
    endpoint: str, fake: Fake, channel: Connect
) -> None:
    host = fake()
    one = channel()
    is_over = threading.Event()
    outcomes: set[Any] = set()

    def work(number: int) -> None:
        while not is_over.is_set():
            outcome = outcome_of(lambda: call(one, number, 20))
            outcomes.add(outcome if isinstance(outcome, type) else "answered")
            assert outcome in (number, UnavailableError)

    threads = [Waiting(lambda number=number: work(number)) for number in range(16)]  # type: ignore[misc]
    for _ in range(15):
        eventually(lambda host=host: len(host.of_kind(msg.CALL)) > 20, "calls arrive at this host, too")
        host.stop()
        host = fake()
    is_over.set()
    for thread in threads:
        thread.join()
    assert outcomes <= {"answered", UnavailableError}
    assert call(one, "in the end", 20) == "in the end"
