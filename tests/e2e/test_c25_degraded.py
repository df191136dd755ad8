"""A models directory that cannot be followed for a while, against real hosts: nothing is unloaded because of that (C25)."""

import json
import shutil

import pytest
from helpers import eventually, line_of, program, stop
from models_rig import FOLLOWED, key, samples, states

import hostd

READY = "READY"

GAUGE = key("hostd_models_dir_degraded")


@pytest.fixture
def client(rig):
    """A client of a host that follows the directory."""
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}, metrics={"port": 0}) as host:
        yield host.client()


def replace(rig, put, take):
    """Move the directory away and put something in its place; return what brings it back."""
    away = rig.path.rename(rig.path.with_name("away"))
    put()

    def bring_back():
        take()
        away.rename(rig.path)

    return bring_back


def replace_at_once(rig):
    """As a mount point that something is unmounted from: there is no moment without a directory."""
    # A link is turned in one step, which two renames of directories are not.
    real = rig.path.rename(rig.path.with_name("real"))
    empty = rig.path.with_name("empty")
    empty.mkdir()
    turn(rig.path, empty)
    return lambda: turn(rig.path, real)


def turn(link, to):
    link.with_name("new-link").symlink_to(to)
    link.with_name("new-link").rename(link)


TROUBLES = {
    "nothing": lambda rig: replace(rig, lambda: None, lambda: None),
    "an empty one": lambda rig: replace(rig, rig.path.mkdir, rig.path.rmdir),
    "an empty one at once": replace_at_once,
    "a file": lambda rig: replace(rig, rig.path.touch, rig.path.unlink),
    "a link to nowhere": lambda rig: replace(rig, lambda: rig.path.symlink_to("nowhere"), rig.path.unlink),
}


def pids_of(client):
    return {model.id: model.workers[0].pid for model in client.list_models()}


def check_that_it_is_followed(client, rig):
    rig.add("probe")
    eventually(lambda: states(client).get("probe") == READY, "what is new is loaded")
    rig.remove("probe")
    eventually(lambda: "probe" not in states(client), "what is gone is unloaded")


def test_c25_nothing_is_unloaded_the_host_says_that_it_is_degraded_and_recovers(client, rig):
    for name in ("a", "b", "team/nested"):
        rig.add(name)
    eventually(lambda: states(client) == {"a": READY, "b": READY}, "the directory is followed")
    nested = client.retrieve_model("team/nested")
    port, pids = client.host_info().metrics_port, pids_of(client)
    for name, trouble in TROUBLES.items():
        assert (client.host_info().degraded, samples(port)[GAUGE]) == ((), 0), name
        bring_back = trouble(rig)
        (why,) = eventually(lambda: client.host_info().degraded, f"it is degraded by {name}")
        assert str(rig.path) in why
        assert samples(port)[GAUGE] == 1
        for load in (True, False):
            report = client.sync_local_models(wait=True, load=load)
            assert str(rig.path) in (report.degraded or "")
            assert (report.loaded, report.unloaded, report.failed, report.writing) == ((), (), {}, ())
        assert pids_of(client) == pids
        assert nested.predict(1) == 1
        with pytest.raises((hostd.NotFoundError, hostd.FailedPreconditionError)):
            client.retrieve_model("other")
        bring_back()
        eventually(lambda: client.host_info().degraded == (), "the host says that it has recovered")
        assert client.sync_local_models(wait=True).degraded is None
        assert pids_of(client) == pids
    check_that_it_is_followed(client, rig)
    bring_back = TROUBLES["nothing"](rig)
    eventually(lambda: client.host_info().degraded, "the host says that it is degraded")
    shutil.rmtree(rig.path.with_name("away") / "b")
    bring_back()
    eventually(lambda: "b" not in states(client), "what is gone when it is back is unloaded")
    assert pids_of(client) == {name: pid for name, pid in pids.items() if name != "b"}


def test_c25_it_is_seen_to_be_away_and_back_without_waiting_for_the_period_and_needed_for_nothing(rig):
    with hostd.Host(models={**FOLLOWED, "dir": rig.path, "poll_period_s": 3600}) as host:
        client = host.client()
        rig.add("m")
        eventually(lambda: states(client) == {"m": READY}, "the directory is watched")
        bring_back = TROUBLES["nothing"](rig)
        eventually(lambda: client.host_info().degraded, "the host says that it is degraded")
        bring_back()
        eventually(lambda: client.host_info().degraded == (), "the host says that it has recovered")
        assert states(client) == {"m": READY}
        check_that_it_is_followed(client, rig)
        TROUBLES["nothing"](rig)
        eventually(lambda: client.host_info().degraded, "the host says that it is degraded")
        assert client.unload_model("m").processes == 1
        client.load_model("elsewhere", rig.make())


# Root may read everything (capabilities(7)): the host gets along without the two rights that let it.
ORDINARY = """
    import ctypes, json, signal, sys
    import hostd

    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0)
    with hostd.Host(models=json.loads(sys.argv[1])) as host:
        print(host.endpoint, flush=True)
        signal.pause()
"""


@pytest.fixture
def ordinary(rig):
    """A client of a host that follows the directory and is bound by the modes of files."""
    embedder = program(ORDINARY, json.dumps({**FOLLOWED, "dir": str(rig.path)}))
    with hostd.connect(line_of(embedder)) as client:
        yield client
    stop(embedder)


def test_c25_what_may_not_be_read_for_a_while_unloads_nothing(ordinary, rig):
    shut = rig.make()
    shut.chmod(0)
    shut.rename(rig.path / "shut")
    rig.add("good")
    eventually(lambda: states(ordinary).get("good") == READY, "the others are loaded")
    assert set(ordinary.sync_local_models(wait=True).failed) == {"shut"}
    assert ordinary.host_info().degraded == ()
    (rig.path / "shut").chmod(0o755)
    eventually(lambda: states(ordinary) == {"good": READY, "shut": READY}, "it is loaded when it may be")
    (rig.path / "shut").chmod(0)
    assert ordinary.sync_local_models(wait=True).unloaded == ()
    (rig.path / "shut").chmod(0o755)
    pids = pids_of(ordinary)
    for mode in (0o000, 0o666, 0o333):
        rig.path.chmod(mode)
        (why,) = eventually(lambda: ordinary.host_info().degraded, "the host says that it is degraded")
        assert "Permission denied" in why
        assert ordinary.sync_local_models(wait=True).unloaded == ()
        rig.path.chmod(0o755)
        eventually(lambda: ordinary.host_info().degraded == (), "the host says that it has recovered")
        assert pids_of(ordinary) == pids
    check_that_it_is_followed(ordinary, rig)
