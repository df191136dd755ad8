"""The control plane: arguments that are checked before anything happens, and who may ask for what."""

from types import SimpleNamespace

import pytest

import hostd
from hostd.core import events as ev
from hostd.shell.control.requests import Control
from hostd.shell.verbs import Request, Role, Verb, Verbs, load_requested
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

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
    nothing = SimpleNamespace(write=None, follow=None, follow_events=None)
    control = Control(supervisor, *[nothing] * 13)
    verbs = control.verbs().items()
    assert {role: {name for name, verb in verbs if verb.role is role} for role in ROLES} == ROLES
