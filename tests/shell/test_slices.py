"""Work on the loop in slices: everything else has its turn between two of them, and clients take theirs in rotation."""

import asyncio

import pytest
from loops import on_a_loop

from hostd.core.values import ClientId
from hostd.shell.work import slices as module
from hostd.shell.work.slices import Slices
from hostd_workers.wire.errors import ResourceExhaustedError

ALICE, BOB = map(ClientId, (b"1.1", b"2.2"))
ONE_STEP_S = 0.0


class Turns:
    """Counts the turns of the loop."""

    def __init__(self):
        self.count = 0
        self._handle = asyncio.get_running_loop().call_soon(self._count)

    def _count(self):
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._count)

    def stop(self):
        self._handle.cancel()


def steps(name, count, seen):
    """Yield so many numbers, and note each."""
    for number in range(count):
        seen.append(name)
        yield number


@on_a_loop
async def test_the_loop_has_a_turn_between_any_two_slices():
    turns, seen = Turns(), []

    def work():
        for _ in range(5):
            seen.append(turns.count)
            yield turns.count

    assert await Slices(ONE_STEP_S).all_of(ALICE, work()) == seen
    turns.stop()
    assert seen == list(range(seen[0], seen[0] + 5))


@on_a_loop
async def test_what_fits_into_a_slice_is_done_in_one():
    turns, seen = Turns(), []
    assert await Slices(slice_s=3600.0).all_of(ALICE, steps("a", 100, seen)) == list(range(100))
    assert (turns.count, len(seen)) == (2, 100), "one for the slice, one for its answer"
    turns.stop()


@on_a_loop
async def test_clients_have_slices_in_rotation_and_one_client_its_answers_in_order():
    slices, seen = Slices(ONE_STEP_S), []
    again = ClientId(b"1.7")  # another connection of the same process
    asked = [(ALICE, "a", 3), (again, "A", 3), (BOB, "b", 3)]
    found = await asyncio.gather(*(slices.all_of(client, steps(name, n, seen)) for client, name, n in asked))
    assert found == [[0, 1, 2]] * 3
    assert "".join(seen) == "abababAAA"


@on_a_loop
async def test_work_that_fails_fails_alone():
    def failing():
        yield 1
        raise OSError("gone")

    slices, seen = Slices(ONE_STEP_S), []
    failed, done = await asyncio.gather(
        slices.all_of(ALICE, failing()), slices.all_of(ALICE, steps("a", 2, seen)), return_exceptions=True
    )
    assert isinstance(failed, OSError)
    assert done == [0, 1]
    assert await slices.all_of(BOB, steps("b", 1, seen)) == [0], "and what comes later is done"


@on_a_loop
async def test_what_nobody_waits_for_any_more_is_dropped():
    slices, seen = Slices(ONE_STEP_S), []
    given_up = asyncio.create_task(slices.all_of(ALICE, steps("a", 1000, seen)))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await slices.all_of(ALICE, steps("b", 3, seen)) == [0, 1, 2]
    assert seen.count("a") < 3


@on_a_loop
async def test_a_client_with_too_much_is_refused_and_others_are_not(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    slices, seen = Slices(ONE_STEP_S), []
    waiting = [asyncio.create_task(slices.all_of(ALICE, steps("a", 5, seen))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError, match="2 requests of this client wait"):
        await slices.all_of(ALICE, steps("a", 1, seen))
    assert await slices.all_of(BOB, steps("b", 1, seen)) == [0]
    assert await asyncio.gather(*waiting) == [list(range(5))] * 2
