"""Fair shares: of requests that wait, of calls, of bytes. One client may take much, and never the places of others."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from driver import ALICE, BOB, CAROL, CONFIG, LAZY, Driver
from hypothesis import given, settings
from hypothesis import strategies as st

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import HostError, ResourceExhaustedError
from hostd_workers.wire.shares import Shares, capacity_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = tuple(ev.ClientId(b"client %d" % number) for number in range(12))
WAITING = dataclasses.replace(LAZY, max_waiting=8, max_in_flight=6, max_in_flight_bytes=10**6)


def fill(shares: Shares, client: ev.ClientId, capacity: int) -> int:
    """Let a client take all that it may have, one by one, and return how much that is."""
    while shares.allows(client, 1, capacity):
        shares.take(client)
    return shares.of(client)


def kept_free(capacity: int, clients: int) -> int:
    """Return what is free at least when so many clients have something: the theorem of `shares`, in whole pieces."""
    free = float(capacity)
    for number in range(1, clients + 1):
        free -= max(1.0, 2 * free / (number + 2))
    return int(free)


# The rule


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 64, 1000, 1024])
def test_a_client_alone_gets_its_limit_and_never_the_whole(limit: int) -> None:
    assert fill(Shares(), ALICE, capacity_for(limit)) == limit < capacity_for(limit)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 64, 1000, 1024])
def test_the_second_client_gets_a_place_at_once(limit: int) -> None:
    shares, capacity = Shares(), capacity_for(limit)
    fill(shares, ALICE, capacity)
    assert fill(shares, BOB, capacity) >= max(1, limit // 4)


def test_a_client_that_takes_nothing_has_nothing_and_may_give_that_back() -> None:
    shares: Shares = Shares()
    for _ in range(2):
        shares.take(ALICE, 0)
    assert (len(shares), shares.of(ALICE)) == (0, 0)
    shares.take(ALICE, 5)
    for amount in (0, 5, 0):
        shares.give_back(ALICE, amount)
    assert (len(shares), shares.total) == (0, 0)


def test_clients_that_come_and_give_nothing_back_leave_something_for_each_that_follows() -> None:
    shares, capacity = Shares(), capacity_for(1024)
    got = [fill(shares, client, capacity) for client in CLIENTS]
    assert got == sorted(got, reverse=True)
    for number, _ in enumerate(got, 1):
        assert capacity - sum(got[:number]) >= 2 * capacity // ((number + 1) * (number + 2))
    assert min(got) >= 2


def test_clients_that_give_back_and_ask_again_come_to_have_the_same() -> None:
    shares, capacity, dice = Shares(), capacity_for(1000), random.Random(1)
    for client in CLIENTS[:5]:
        fill(shares, client, capacity)
    assert shares.of(CLIENTS[0]) == 1000
    for _ in range(20_000):  # each end of a piece gives everybody a chance
        shares.give_back(dice.choice(shares.clients()))
        for client in dice.sample(CLIENTS[:5], 5):
            if shares.allows(client, 1, capacity):
                shares.take(client)
    assert all(190 <= shares.of(client) <= 210 for client in CLIENTS[:5])


def test_a_first_piece_may_be_as_large_as_what_is_free() -> None:
    shares = Shares()
    assert shares.allows(ALICE, 100, 100)
    assert not shares.allows(ALICE, 101, 100)
    shares.take(ALICE, 60)
    assert not shares.allows(ALICE, 7, 100)
    assert shares.allows(ALICE, 6, 100)
    assert shares.allows(BOB, 40, 100)
    assert not shares.allows(BOB, 41, 100)
    assert repr(shares) == "<Shares 60 of 1 clients>"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    capacity=st.integers(1, 60), moves=st.lists(st.tuples(st.sampled_from(CLIENTS[:6]), st.booleans()), max_size=200)
)
def test_whatever_clients_do_something_is_kept_for_the_next(
    capacity: int, moves: list[tuple[ev.ClientId, bool]]
) -> None:
    shares: Shares = Shares()
    has: Counter[ev.ClientId] = Counter()
    for client, is_taking in moves:
        free = capacity - has.total()
        if is_taking:
            is_allowed = shares.allows(client, 1, capacity)
            assert is_allowed or has[client] or not free, "a client without any was refused a place that is free"
            if is_allowed:
                shares.take(client)
                has[client] += 1
        elif has[client]:
            shares.give_back(client)
            has[client] -= 1
        has = +has
        assert {client: shares.of(client) for client in shares.clients()} == dict(has)
        assert capacity - shares.total >= kept_free(capacity, len(has))


# What is shared


def retrieves(host: Driver, client: ev.ClientId) -> ev.Caller:
    return host.retrieve("m", client=client)


def calls_while_it_loads(host: Driver, client: ev.ClientId) -> ev.Caller:
    return host.call("m", client=client)


def unloads_and_loads(host: Driver, client: ev.ClientId) -> ev.Caller:
    return host.load("m", client=client)


KINDS: dict[str, tuple[Callable[[Driver, ev.ClientId], ev.Caller], int]] = {
    "retrieves": (retrieves, WAITING.max_waiting),
    "loads": (unloads_and_loads, WAITING.max_waiting),
    "held calls": (calls_while_it_loads, WAITING.max_in_flight),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_client_waits_for_leaves_places_for_others(kind: str) -> None:
    ask, limit = KINDS[kind]
    host = Driver(WAITING)
    waiting = [ask(host, ALICE) for _ in range(limit)]
    for _ in range(3):
        assert isinstance(host.error(ask(host, ALICE)), ResourceExhaustedError)
    bob, carol = ask(host, BOB), ask(host, CAROL)
    assert all(map(host.is_waiting, [*waiting, bob, carol]))
    host.up("m")
    for caller in (*waiting, bob, carol):
        if kind == "held calls":
            host.answered(host.sent(caller))
        assert not isinstance(host.answer(caller), HostError)


def test_calls_of_one_client_leave_places_at_the_worker_for_others(ready: Driver) -> None:
    for _ in range(CONFIG.max_in_flight):
        assert ready.is_waiting(ready.call())
    assert isinstance(ready.error(ready.call()), ResourceExhaustedError)
    for client in (BOB, CAROL):
        assert ready.is_waiting(ready.call(client=client))
    assert isinstance(ready.error(ready.call(client=CLIENTS[0])), ResourceExhaustedError), "no more than half as many"


def test_bytes_of_one_client_leave_room_for_others(ready: Driver) -> None:
    ready.up_to("READY", "other")
    for _ in range(2):
        ready.call(size_bytes=33)
    assert isinstance(ready.error(ready.call(size_bytes=1)), ResourceExhaustedError)
    assert ready.is_waiting(ready.call("other", size_bytes=33, client=BOB))


def test_calls_that_their_client_has_left_are_still_that_clients(ready: Driver) -> None:
    left = [ready.call() for _ in range(CONFIG.max_in_flight)]
    sent = [ready.sent(call) for call in left]
    for call in left:
        ready.feed(ev.CallCancelled(call))
    assert isinstance(ready.error(ready.call()), ResourceExhaustedError)
    assert ready.is_waiting(ready.call(client=BOB))
    for call in sent:
        ready.answered(call)
    assert ready.is_waiting(ready.call())


def test_calls_that_were_left_are_forgotten_with_their_worker(ready: Driver) -> None:
    ready.feed(ev.CallCancelled(ready.call(size_bytes=60)))
    ready.feed(ev.ClientVanished(ready.call(client=BOB).client))
    assert ready.router.bytes.total == 61
    ready.unload(at_once=True)
    ready.gone()
    assert len(ready.router.bytes) == 0


def test_a_call_that_was_left_and_never_sent_gives_its_place_back(ready: Driver) -> None:
    call = ready.call()
    sent = ready.sent(call)
    ready.feed(ev.CallCancelled(call))
    assert ready.feed(ev.WorkerUnreachable(sent.worker_id, sent.call_id, is_full=True)) == []
    assert len(ready.router.bytes) == 0


# Games of several clients

LIMITS = dataclasses.replace(WAITING, max_waiting=10, max_in_flight=5)


class Game:
    """Clients that wait for a model that loads, or call one that serves, and go on asking for more."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.host = Driver(LIMITS)
        self.host.up_to("READY", "serves")
        self.host.load("loads", wait=False, client=ev.ClientId(b"somebody else"))
        self.clients = self.dice.sample(CLIENTS, self.dice.randint(2, 9))
        self.refused = 0

    def play(self, steps: int) -> None:
        greedy = self.clients[0]
        for _ in range(steps):
            client = greedy if self.dice.random() < 0.5 else self.dice.choice(self.clients)
            moves = (self.retrieve, self.call, self.hold, self.call, self.end, self.cancel, self.vanish)
            self.dice.choice(moves)(client)

    def retrieve(self, client: ev.ClientId) -> None:
        has = Counter(caller.client for caller in self.host.registry.waiting._places)
        self.ask(lambda: self.host.retrieve("loads", client=client), client, has, capacity_for(LIMITS.max_waiting))

    def hold(self, client: ev.ClientId) -> None:
        has = Counter(caller.client for caller in self.host.router.pending.by_caller)
        self.ask(lambda: self.host.call("loads", client=client), client, has, capacity_for(LIMITS.max_in_flight))

    def call(self, client: ev.ClientId) -> None:
        has = Counter(call.payload.caller.client for call in self.sent())
        self.ask(lambda: self.host.call("serves", client=client), client, has, capacity_for(LIMITS.max_in_flight))

    def ask(self, ask: Callable[[], ev.Caller], client: ev.ClientId, has: Counter[ev.ClientId], capacity: int) -> None:
        is_let_in = self.host.is_waiting(ask())
        self.refused += not is_let_in
        assert is_let_in or has[client] or has.total() == capacity, f"{client} has nothing and got no place: {has}"
        has[client] += is_let_in
        assert capacity - has.total() >= kept_free(capacity, len(+has)), has

    def sent(self) -> list[fx.ForwardCall]:
        return list(itertools.chain.from_iterable(p.calls.values() for p in self.host.processes.values()))

    def end(self, client: ev.ClientId) -> None:
        calls = [call for call in self.sent() if call.payload.caller.client == client]
        if calls:
            self.host.answered(self.dice.choice(calls))

    def cancel(self, client: ev.ClientId) -> None:
        callers = [caller for caller in self.host.open if caller.client == client]
        if callers:
            self.host.feed(ev.CallCancelled(self.dice.choice(callers)))

    def vanish(self, client: ev.ClientId) -> None:
        if self.dice.random() < 0.1:
            self.host.feed(ev.ClientVanished(client))

    def settle(self) -> Iterator[Shares]:
        """Let everything end, and yield all books of what clients have."""
        self.host.up("loads")
        for call in self.sent():
            self.host.answered(call)
        assert not +self.host.open
        registry, router = self.host.registry, self.host.router
        yield from (registry.waiting._shares, router.bytes, *(worker.shares for worker in registry.workers.values()))


@pytest.mark.parametrize("seed", range(40))
def test_in_no_game_is_a_client_refused_for_what_another_does(seed: int) -> None:
    game = Game(seed)
    game.play(400)
    assert game.refused, "a game in which there is enough for all proves nothing"
    assert [len(shares) for shares in game.settle()] == [0] * 4
