"""Odd surroundings: in each of these a host serves, is embedded and is used, or it refuses in a sentence.

Every value of every kind is in a row. `python tests/surroundings.py` tries the whole product.
"""

import os
import shutil
import signal

import pytest
from helpers import PATIENCE_S, new_tag, program, tagged
from surroundings import Case, asks, commands, embeds, serves, shares

import hostd
from hostd import embed
from hostd.config.loading import load_config
from hostd.hosts.launch import AT_ONCE, exec_host

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become somebody else"
)

WORKS = [
    Case(signals="blocked", descriptors="none", umask="open"),
    Case(signals="ignored", descriptors="no errors", directory="gone"),
    Case(signals="in the background", descriptors="no output", limits="some files"),
    Case(environment="of another program"),
    pytest.param(Case(descriptors="no input", directory="shut"), marks=needs_root),
    pytest.param(Case(person="without entry and home", descriptors="no input", limits="some files"), marks=needs_root),
    pytest.param(Case(person="at the root", signals="ignored"), marks=needs_root),
    pytest.param(
        Case("blocked", "none", "with a home that is not there", "open", "gone", "some files"), marks=needs_root
    ),
]
REFUSES = [
    Case(umask="closed"),
    Case(limits="few files", signals="ignored"),
    Case(limits="small files", descriptors="no input"),
    Case(limits="little memory", directory="gone"),
    pytest.param(Case(limits="few processes", signals="blocked"), marks=needs_root),
    pytest.param(Case(person="without entry and home", umask="closed"), marks=needs_root),
    pytest.param(Case(person="with another's home"), marks=needs_root),
    pytest.param(Case(person="with another's runtime directory", umask="open"), marks=needs_root),
    pytest.param(Case(person="with another's state directory", descriptors="no output"), marks=needs_root),
]


@pytest.mark.parametrize("case", WORKS, ids=str)
def test_a_host_works_in_these_surroundings(case):
    assert embeds(case)
    assert shares(case)
    assert serves(case)


@pytest.mark.parametrize("case", REFUSES, ids=str)
def test_a_host_refuses_in_a_sentence_in_these(case):
    assert not serves(case)
    assert case.person == "usual" or not shares(case)
    # An embedded host keeps its state in its runtime directory.
    assert embeds(case) == (case.person in ("with another's home", "with another's state directory"))


@pytest.mark.parametrize("case", [*WORKS[4:6], REFUSES[0], REFUSES[-2]], ids=str)
def test_commands_that_need_no_host_work_in_all_of_them(case):
    commands(case)


@pytest.mark.parametrize("case", [WORKS[0], WORKS[2], REFUSES[1], REFUSES[3]], ids=str)
def test_a_client_works_in_all_of_them(case, shared_host):
    assert asks(case, shared_host.endpoint)


def test_what_a_host_says_of_its_start_goes_through_no_standard_descriptor():
    source = """
        import os
        os.closerange(0, 3)
        from hostd.hosts.launch import ready_pipe
        os._exit(min(ready_pipe()))
    """
    with program(source) as without_any:
        assert without_any.wait(PATIENCE_S) >= 3


def test_an_environment_that_the_system_does_not_pass_on_is_told(monkeypatch):
    monkeypatch.setitem(os.environ, "BIG", "x" * (1 << 18))
    with pytest.raises(hostd.FailedPreconditionError, match=r"Argument list too long \(the environment"):
        hostd.Host().start()
    with pytest.raises(hostd.FailedPreconditionError, match=r"Argument list too long \(the environment"):
        exec_host(load_config())


def test_a_start_that_fails_at_once_ends_a_reaper_that_does_not_listen_yet(monkeypatch):
    monkeypatch.setattr(embed, "START_TIMEOUT_S", 0)
    before = signal.signal(AT_ONCE, signal.SIG_IGN)
    try:
        with pytest.raises(hostd.DeadlineExceededError):
            hostd.Host().start()
    finally:
        signal.signal(AT_ONCE, before)


def test_settings_that_are_wrong_end_a_reaper_that_hears_no_signal(monkeypatch):
    tag = new_tag()
    monkeypatch.setenv("WRONG", tag)
    before = signal.signal(AT_ONCE, signal.SIG_IGN)
    try:
        for _ in range(2):  # the second time what checks them has been imported, and the reaper has hardly begun
            with pytest.raises(hostd.InvalidArgumentError):
                hostd.Host(memory={"bogus": 1}).start()
    finally:
        signal.signal(AT_ONCE, before)
    assert tagged(tag, "WRONG") == set()


def test_a_host_that_is_stopped_at_once_says_nothing(capfd):
    for _ in range(4):
        with hostd.Host():
            pass
    assert capfd.readouterr() == ("", "")
