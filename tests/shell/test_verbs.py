"""The control plane: arguments that are checked before anything happens, and subscriptions to events."""

from types import SimpleNamespace

import pytest

import hostd
from hostd.core import events as ev
from hostd.records import Event
from hostd.shell.control import requests as module
from hostd.shell.control.requests import Control
from hostd.shell.verbs import Request, Role, Verb, Verbs, load_requested
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import InvalidArgumentError, ResourceExhaustedError

CALLER = ev.Caller(ev.ClientId(b"client"), 7)


def request(**arguments):
    return Request(CALLER, arguments, 12.5)


def test_an_argument_is_returned_if_it_is_of_its_kind():
    assert request(name="x").get("name", str) == "x"
    assert request().get("name", str, "default") == "default"
    assert request(n=3).get("n", (int, float)) == 3
    assert request(n=True).get("n", bool) is True
    assert request().get_optional("name", str) is None
    assert request(name=None).get_optional("name", str) is None


@pytest.mark.parametrize("given", [*({"name": value} for value in (7, None, b"x", ["x"], {"x": 1})), {}], ids=str)
def test_an_argument_of_another_kind_or_none_is_refused_by_name(given):
    kind = type(given.get("name")).__name__
    with pytest.raises(hostd.InvalidArgumentError, match=f"name must be a str, got {kind}"):
        request(**given).get("name", str)
    with pytest.raises(hostd.InvalidArgumentError, match="n must be a int"):
        request(n=True).get("n", int)


def test_unknown_arguments_are_refused_with_the_known_ones():
    for known, words in ((["model_id"], r"'colour'; known are: model_id"), ([], "known are: none")):
        with pytest.raises(hostd.InvalidArgumentError, match=words):
            request(**dict.fromkeys(known, "x"), colour="red").only(*known)


def test_a_load_takes_its_defaults():
    event = load_requested(request(model_id="m"))
    assert event.source == ev.LoadSource(None, "standalone-model", None, None, {})
    assert (event.caller, event.model_id, event.wait, event.deadline_s) == (CALLER, "m", True, 12.5)


def test_a_verb_is_found_by_name_and_gets_its_arguments():
    heard = []
    verbs = Verbs({"do": Verb(Role.USE, heard.append)})
    envelope = wire.unpack(msg.pack_map(msg.VERB, 7, {"a": 1}, header=msg.pack_verb("do")))
    verbs(CALLER, "do", envelope, 12.5)
    assert heard == [Request(CALLER, {"a": 1}, 12.5)]
    with pytest.raises(hostd.UnimplementedError, match="known are: do"):
        verbs(CALLER, "undo", envelope, None)
    with pytest.raises(hostd.InvalidArgumentError):
        verbs(CALLER, "do", envelope._replace(body=b"\x91\x01"), None)


def test_arguments_that_would_hold_everybody_up_are_refused_unread():
    heard = []
    verbs = Verbs({name: Verb(Role.USE, heard.append) for name in ("do", "deploy_begin")})
    for arguments in ({"a": "x" * 300_000}, {"a": [[["x"] * 2] * 3000] * 4}, {"files": [["x", 1]] * 10_000}):
        frames = msg.pack_map(msg.VERB, 7, arguments)
        with pytest.raises(hostd.InvalidArgumentError, match=r"are allowed here|over a limit"):
            verbs(CALLER, "do", wire.unpack(frames), None)
    verbs(CALLER, "deploy_begin", wire.unpack(frames), None)
    assert heard == [Request(CALLER, arguments, None)]


WRONG = [
    *({name: 7} for name in ("model_id", "path", "type", "finder", "initializer")),
    *({"wait": 1}, {"options": []}, {"options": {1: 2}}, {"retries": True}, {"colour": "red"}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_load_with_a_wrong_argument_is_refused_by_name(wrong):
    with pytest.raises(hostd.InvalidArgumentError, match=next(iter(wrong))):
        load_requested(request(**{"model_id": "m", **wrong}))


ROLES = {
    Role.ADMINISTER: {"shutdown", "host_settings", "reload_config"},
    Role.MANAGE: {
        *("load_model", "unload_model", "unload_all_models", "deploy_begin", "deploy_write", "deploy_commit"),
        *("deploy_abort", "undeploy_model", "sync_local_models", "pin_model"),
    },
}


def test_every_verb_says_which_role_it_needs():
    supervisor = SimpleNamespace(emit=None, answer=None)
    control = Control(supervisor, None, SimpleNamespace(write=None), *[None] * 8)
    verbs = control.verbs().items()
    assert {role: {name for name, verb in verbs if verb.role is role} for role in ROLES} == ROLES


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
    """A control without anything behind it, and what it sends to clients."""

    def __init__(self):
        self.sent = []
        absent = SimpleNamespace(write=None)
        here = self
        self.control = Control(here, *[absent] * 10)

    def emit(self, event):
        raise AssertionError(f"a subscription is nothing for the core: {event}")

    def answer(self):
        raise AssertionError("a subscription is answered by what happens")

    def carry_out(self, effect):
        envelope = wire.unpack([bytes(frame) for frame in effect.payload])
        if envelope.body != NOTED:
            self.sent.append((effect.client, effect.request_id, msg.unpack_map(envelope)))

    def subscribe(self, client, request_id, model_id=None):
        caller = ev.Caller(ev.ClientId(client), request_id)
        self.control.verbs()["events"].handle(Request(caller, {"model_id": model_id}, None))

    def tell(self, model_id):
        """Let something happen to a model; return which client was told, under which id."""
        self.sent.clear()
        event = Event(1.0, model_id, "model", "LOADING", "READY", "LOAD", "loaded", "standalone-model", 1)
        self.control.on_event(event)
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
    rig.control.withdraw(BOB, 1)
    rig.control.withdraw(BOB, 7)
    assert rig.tell("m") == [(ALICE, 1)]
    assert rig.tell("n") == [(ALICE, 1), (BOB, 2)]
    rig.control.withdraw(BOB, None)
    rig.control.withdraw(ALICE, None)
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
        rig.control.withdraw(ev.ClientId(Client(b"7")), request_id)
    assert Client.compared < 500, "64 are given back one by one, and not 2560 looked at"
    assert len(rig.tell("m")) == 39 * 64


def test_an_event_is_encoded_once_however_many_are_told(rig, monkeypatch):
    encoded = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda value: encoded.append(value) or encode(value))
    for request_id in range(1, 30):
        rig.subscribe(ALICE, request_id)
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
