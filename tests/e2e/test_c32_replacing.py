"""C32: `replace=True`: the old model serves until the new one is ready, and stays if that fails."""

import os
import threading

import pytest
from deploy_rig import (
    MIB,
    PLACES,
    Raw,
    all_at_once,
    await_tidy,
    content,
    entries,
    files_of,
    put,
    refusal,
    undeploy_when_undone,
)
from helpers import PATIENCE_S, eventually, is_there, rss_of_tree

import hostd

pytestmark = pytest.mark.usefixtures("way")

CALLERS = 4
BALLAST_BYTES = 100 * MIB

WORKERS = {"load_timeout_s": 10.0}


class Callers:
    """Threads with clients of their own that call a model without a pause and note every answer."""

    def __init__(self, endpoint, model_id):
        self.said = [[] for _ in range(CALLERS)]
        self.errors = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(endpoint, model_id, said)) for said in self.said]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *exc):
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def go_on(self):
        """Wait until each has had some more answers."""
        counts = [len(said) for said in self.said]
        eventually(
            lambda: self.errors or all(len(said) > count + 5 for said, count in zip(self.said, counts, strict=True)),
            "all callers are answered",
        )

    def changes(self):
        """Return each caller's answers, equal ones in a row only once."""
        return [
            [text for index, text in enumerate(said) if index == 0 or said[index - 1] != text] for said in self.said
        ]

    def _call(self, endpoint, model_id, said):
        try:
            with hostd.connect(endpoint) as client:
                model = client.retrieve_model(model_id)
                while not self._over.is_set():
                    said.append(model.predict())
        except BaseException as error:  # noqa: BLE001 - for the test to see
            self.errors.append(error)


@pytest.mark.parametrize("kind", ["deployed", "of another path"])
def test_c32_not_one_call_fails_and_answers_change_once(deploying, deployer, models, tmp_path, kind):
    gate = tmp_path / "gate"
    if kind == "deployed":
        deployer.deploy_model("m", files_of("0"))
    else:
        deployer.load_model("m", put(tmp_path, "m", "0"))
    with Raw(deploying.endpoint) as raw, Callers(deploying.endpoint, "m") as callers:
        for version in ("1", "2"):
            deployer.deploy_model("m", files_of(version, data=os.urandom(MIB)), replace=True)
            callers.go_on()
        commit = raw.begin("deploy_commit", upload=raw.upload("m", files_of(f"gated {gate}"), replace=True))
        eventually((tmp_path / "gate.reached").exists, "the new one loads")
        callers.go_on()
        assert callers.errors == []
        assert callers.changes() == [["0", "1", "2"]] * CALLERS, "the old one serves while the new one loads"
        gate.touch()
        assert raw.answer(commit)["state"] == "READY"
        callers.go_on()
    assert callers.errors == []
    assert callers.changes() == [["0", "1", "2", f"gated {gate}"]] * CALLERS
    await_tidy(models)
    assert content(models / "m") == files_of(f"gated {gate}")


def test_c32_calls_in_flight_at_the_change_are_finished_by_the_old_model(deployer, models, tmp_path):
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    model = deployer.deploy_model("m", files_of("old"))
    pid, call = model.pid(), model.submit.linger(str(marker), str(gate))
    eventually(marker.exists, "the call has begun")
    deployer.deploy_model("m", files_of("next"), replace=True)
    assert model.predict() == "next"
    assert is_there(pid)
    gate.touch()
    assert call.result(PATIENCE_S) == "old"
    eventually(lambda: not is_there(pid), "the old one goes when it has nothing to do any more")
    deployer.deploy_model("m", files_of("new"), replace=True, wait=False)
    eventually(lambda: model.predict() == "new", "the new one takes over")
    deployer.deploy_model("m", files_of("bad"), replace=True, wait=False)
    await_tidy(models)
    assert model.predict() == "new"
    assert content(models / "m") == files_of("new")
    undeploy_when_undone(deployer)


def test_c32_the_memory_of_the_old_model_is_given_back(deploying, deployer):
    model = deployer.deploy_model("m", files_of(f"big {BALLAST_BYTES}"))
    pids = set()
    for _ in range(3):
        pids.add(model.pid())
        deployer.deploy_model("m", files_of(f"big {BALLAST_BYTES}"), replace=True)
    pids.add(model.pid())
    assert len(pids) == 4
    eventually(lambda: sum(map(is_there, pids)) == 1, "the old ones are gone")
    assert rss_of_tree(deploying.pid) < 2.5 * BALLAST_BYTES
    assert deployer.unload_model("m").processes == 1


# New ones that fail

FAILING = {
    "raises": (files_of("bad"), hostd.ModelError),
    "dies": (files_of("dies"), hostd.HostError),
    "hangs": (files_of("gated /nowhere"), hostd.DeadlineExceededError),
    "is no model": ({"text": b"x"}, hostd.InvalidArgumentError),
    "has bad settings": ({**files_of("x"), "model.yaml": b"loader: [1"}, hostd.InvalidArgumentError),
}


@pytest.mark.parametrize("why", FAILING)
def test_c32_a_new_one_that_fails_leaves_the_old_one_and_its_files(deploying, deployer, models, why):
    old = deployer.deploy_model("m", files_of("old", **{"only/old": b"o"}))
    pid, inode = old.pid(), (models / "m").stat().st_ino
    files, kind = FAILING[why]
    with Callers(deploying.endpoint, "m") as callers:
        with pytest.raises(kind):
            deployer.deploy_model("m", files, replace=True)
        assert content(models / "m") == files_of("old", **{"only/old": b"o"}), "answered when the old files are back"
        callers.go_on()
    assert callers.errors == []
    assert callers.changes() == [["old"]] * CALLERS
    assert (old.pid(), (models / "m").stat().st_ino) == (pid, inode)
    assert old.reads() == "old"
    assert old.info.state == "READY"
    assert len(old.info.workers) == 1
    await_tidy(models)
    assert entries(models) == ["m"]
    assert deployer.deploy_model("m", files_of("new"), replace=True).predict() == "new"


def test_c32_of_what_is_not_loaded_and_with_keep_the_files_are_as_after_a_deploy(deployer, models):
    for text in ("first", "second"):
        assert deployer.deploy_model("m", files_of(text), replace=True).predict() == text
        deployer.unload_model("m")
    await_tidy(models)
    with pytest.raises(hostd.ModelError):
        deployer.deploy_model("m", files_of("bad"), replace=True)
    assert content(models / "m") == files_of("second")
    assert deployer.list_models() == []
    old = deployer.load_model("m", models / "m")
    with pytest.raises(hostd.ModelError):
        deployer.deploy_model("m", files_of("bad"), replace=True, keep=True)
    assert old.predict() == "second", "the old one stays whatever becomes of the files"
    await_tidy(models)
    assert content(models / "m") in (files_of("second"), files_of("bad"))
    inner = deployer.deploy_model("m/inner", files_of("inner"))
    with pytest.raises(hostd.FailedPreconditionError):  # it would take the whole tree away
        deployer.deploy_model("m", files_of("new"), replace=True)
    assert inner.reads() == "inner"
    assert deployer.undeploy_model("m/inner").processes == 1


# Meanwhile


def test_c32_two_hosts_that_replace_one_model_leave_one_of_both_and_what_is_under_way_alone(
    deploying, deployer, models, tmp_path
):
    """If one then failed it would bring back what was there before, and take the other's files away."""
    gate = tmp_path / "gate"
    with hostd.Host(models={**PLACES, "dir": models, "load_on_start": False}) as other, Raw(deploying.endpoint) as raw:
        clients = (deployer, other.client())
        put(models, "m", "old")
        for theirs in clients:
            theirs.load_model("m", models / "m")
        for turn in range(5):
            files = [files_of(f"{turn} {number}") for number in range(2)]
            outcomes = all_at_once(
                [lambda n=n, c=c: c.deploy_model("m", files[n], replace=True) for n, c in enumerate(clients)]  # noqa: B023
            )
            assert all(error is None or isinstance(error, hostd.AbortedError) for error in outcomes), outcomes
            await_tidy(models)
            assert entries(models) == ["m"]
            if None in outcomes:
                assert content(models / "m") in [files[n] for n, error in enumerate(outcomes) if error is None]
        before = content(models / "m")
        commit = raw.begin("deploy_commit", upload=raw.upload("m", files_of(f"gated {gate}"), replace=True))
        eventually((tmp_path / "gate.reached").exists, "the new one loads")
        for act in (
            lambda: clients[1].deploy_model("m", files_of("x"), replace=True),
            lambda: clients[1].undeploy_model("m"),
        ):
            assert isinstance(refusal(act), hostd.AbortedError)
        deployer.unload_model("m")
        assert isinstance(refusal(lambda: raw.answer(commit)), hostd.AbortedError)
        assert content(models / "m") == before
        assert clients[1].deploy_model("m", files_of("x"), replace=True).predict() == "x"
