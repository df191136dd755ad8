"""Watches: what is told when, of models that are only records here."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hostd.core import events as ev
from hostd.records import Event, ModelInfo
from hostd.shell.control import watches as module
from hostd.shell.control.subscriptions import Subscriptions
from hostd.shell.control.watches import Watches
from hostd.shell.verbs import Request
from hostd.shell.work.slices import Slices
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

M = ModelInfo("m", "READY", "/m", "standalone-model")
ALICE, BOB = (ev.ClientId(name) for name in (b"alice", b"bob"))


class Rig:
    """Watches of a supervisor that is none; `models` is what its core knows."""

    def __init__(self):
        self.models, self.told, self.looks = {}, [], 0
        self.core = SimpleNamespace(queries=SimpleNamespace(all_ids=lambda: set(self.models), known=self._known))
        self.subscriptions = Subscriptions(self)
        self.watches = Watches(self, self.subscriptions, Slices(), "epoch")
        self.begun = []
        self.has_told = asyncio.Event()

    def _known(self, model_id):
        self.looks += 1
        return self.models.get(model_id)

    def start(self, slow):
        self.begun.append(asyncio.ensure_future(slow))

    def carry_out(self, effect):
        change = msg.unpack_map(wire.unpack([bytes(frame) for frame in effect.payload]))
        self.told.append((effect.client, change["kind"], change["number"], len(change["models"]), change["model_id"]))
        self.has_told.set()

    def follow(self, client):
        self.watches.follow(Request(ev.Caller(client, 1), {}, None))

    def turn(self, model_id="m"):
        """Tell of a transition."""
        self.watches.on_event(Event(1.0, model_id, "model", "LOADING", "READY"))

    async def all_told(self):
        """Return what was told since the last time, when nothing more comes without a period."""
        for _ in range(20):
            await asyncio.sleep(0)
        told, self.told = self.told, []
        return told

    def end(self):
        for each in self.begun:
            each.cancel()


@pytest.fixture
def periods(monkeypatch):
    """No period ends in these tests."""
    monkeypatch.setattr(module, "_PERIOD_S", 3600)


async def watched(rig):
    rig.models["m"] = M
    rig.follow(ALICE)
    assert await rig.all_told() == [(ALICE, "snapshot", 1, 1, "")]


@pytest.mark.usefixtures("periods")
def test_a_transition_is_told_at_once_and_only_what_has_changed():
    async def run():
        rig = Rig()
        await watched(rig)
        rig.turn()
        assert await rig.all_told() == [], "nothing is another than it was"
        rig.models["m"] = replace(M, calls=7, size=5)
        rig.turn()
        assert await rig.all_told() == [], "figures alone are no change"
        rig.models["m"] = replace(M, state="UNLOADING")
        rig.turn()
        rig.turn()
        assert await rig.all_told() == [(ALICE, "changed", 2, 1, "")]
        del rig.models["m"]
        rig.turn()
        rig.turn("never known")
        assert await rig.all_told() == [(ALICE, "removed", 3, 0, "m")]
        rig.end()

    asyncio.run(run())


@pytest.mark.usefixtures("periods")
def test_what_changes_before_the_snapshot_is_in_it_and_not_told_before():
    async def run():
        rig = Rig()
        await watched(rig)
        rig.follow(BOB)
        rig.models["m"] = replace(M, state="UNLOADING")
        rig.watches._look("m")
        assert await rig.all_told() == [(ALICE, "changed", 2, 1, ""), (BOB, "snapshot", 2, 1, "")]
        rig.end()

    asyncio.run(run())


def test_what_changes_without_a_transition_is_told_after_a_period(monkeypatch):
    async def run():
        monkeypatch.setattr(module, "_PERIOD_S", 0.001)
        rig = Rig()
        await watched(rig)
        rig.models["m"] = replace(M, pinned=True)
        rig.has_told.clear()
        await asyncio.wait_for(rig.has_told.wait(), 60)
        assert await rig.all_told() == [(ALICE, "changed", 2, 1, "")]
        rig.end()

    asyncio.run(run())


def test_nobody_is_looked_at_when_nobody_watches_any_more(monkeypatch):
    async def run():
        monkeypatch.setattr(module, "_PERIOD_S", 0.001)
        rig = Rig()
        rig.turn()
        await rig.all_told()
        assert rig.looks == 0, "nobody has watched yet"
        await watched(rig)
        rig.follow(BOB)
        rig.subscriptions.withdraw(BOB, None)  # before its snapshot
        assert await rig.all_told() == []
        rig.subscriptions.withdraw(ALICE, None)
        await asyncio.wait(rig.begun, timeout=60)
        assert all(each.done() for each in rig.begun)
        looks = rig.looks
        rig.turn()
        assert await rig.all_told() == []
        assert rig.looks == looks
        rig.follow(ALICE)
        assert [kind for _, kind, *_ in await rig.all_told()] == ["snapshot"]
        rig.end()

    asyncio.run(run())
