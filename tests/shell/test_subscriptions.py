"""Subscriptions: who is told of what, and how many there may be."""

import pytest

from hostd.core import events as ev
from hostd.records import Event
from hostd.shell.control import subscriptions as module
from hostd.shell.control.subscriptions import Subscriptions
from hostd.shell.verbs import Request
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import InvalidArgumentError, ResourceExhaustedError

NOTED = encode(None)[0]
ALICE, BOB = ev.ClientId(b"alice"), ev.ClientId(b"bob")


class Client(bytes):
    """An identity that counts how often any is compared."""

    compared = 0

    def __eq__(self, other):
        Client.compared += 1
        return super().__eq__(other)

    __hash__ = bytes.__hash__


class Rig:
    """Subscriptions of a supervisor that is none, and what is sent to clients."""

    def __init__(self):
        self.sent = []
        self.subscriptions = Subscriptions(self)

    def carry_out(self, effect):
        envelope = wire.unpack([bytes(frame) for frame in effect.payload])
        if envelope.body != NOTED:
            self.sent.append((effect.client, effect.request_id, msg.unpack_map(envelope)))

    def subscribe(self, client, request_id, model_id=None):
        caller = ev.Caller(ev.ClientId(client), request_id)
        self.subscriptions.follow_events(Request(caller, {"model_id": model_id}, None))

    def tell(self, model_id):
        """Let something happen to a model; return which client was told, under which id."""
        self.sent.clear()
        event = Event(1.0, model_id, "model", "LOADING", "READY", "LOAD", "loaded", "standalone-model", 1)
        self.subscriptions.on_event(event)
        assert all(Event.from_dict(told) == event for _, _, told in self.sent)
        return [(client, request_id) for client, request_id, _ in self.sent]


@pytest.fixture
def rig():
    return Rig()


def test_what_wants_to_know_of_a_model_is_told_of_it_alone(rig):
    rig.subscribe(ALICE, 1)
    rig.subscribe(BOB, 1, "m")
    rig.subscribe(BOB, 2, "n")
    assert rig.tell("m") == [(ALICE, 1), (BOB, 1)]
    rig.subscriptions.withdraw(BOB, 1)
    rig.subscriptions.withdraw(BOB, 7)
    assert rig.tell("m") == [(ALICE, 1)]
    assert rig.tell("n") == [(ALICE, 1), (BOB, 2)]
    rig.subscriptions.withdraw(BOB, None)
    rig.subscriptions.withdraw(ALICE, None)
    assert rig.tell("n") == []


def test_a_subscription_has_an_id_of_its_own(rig):
    rig.subscribe(ALICE, 1)
    with pytest.raises(InvalidArgumentError, match="request id 1 is in use"):
        rig.subscribe(ALICE, 1, "m")
    assert rig.tell("n") == [(ALICE, 1)]


def test_a_cancel_costs_the_same_however_many_subscriptions_there_are(rig):
    """It looked at all of them: 20,000 cancels over 3,840 subscriptions stopped the loop for a minute."""
    for number in range(40):
        for request_id in range(1, 65):
            rig.subscribe(Client(b"%d" % number), request_id)
    Client.compared = 0
    for request_id in (5, 999_999, None):
        rig.subscriptions.withdraw(ev.ClientId(Client(b"7")), request_id)
    assert Client.compared < 500, "64 are given back one by one, and not 2560 looked at"
    assert len(rig.tell("m")) == 39 * 64


def test_an_event_is_encoded_once_however_many_are_told(rig, monkeypatch):
    encoded = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda value: encoded.append(value) or encode(value))
    for request_id in range(1, 30):
        rig.subscribe(ALICE, request_id)
    encoded.clear()
    assert len(rig.tell("m")) == 29
    assert len(encoded) == 1


def test_clients_that_subscribe_to_all_that_they_may_leave_some_for_others(rig, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ALL_SUBSCRIPTIONS", 128)
    for number in range(10):
        with pytest.raises(ResourceExhaustedError, match=r"this client has \d+ subscription"):
            for request_id in range(1, 100):
                rig.subscribe(b"%d" % number, request_id)
    rig.subscribe(ALICE, 1)
    assert (ALICE, 1) in rig.tell("m")
    assert sum(client == b"0" for client, _ in rig.tell("m")) == 64
