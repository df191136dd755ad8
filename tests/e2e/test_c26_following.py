"""How a real host follows its models directory: when it looks (C26), and what it takes for whole (C27).

Writers that pause, with a marker and within the quiet period, are in `tests/shell/test_completeness_writers.py`.
"""

import pytest
from helpers import PATIENCE_S, eventually
from models_rig import AT_ONCE, FOLLOWED, causes, states

import hostd

READY = "READY"
NEVER_S = 3600.0


def following(rig, **settings):
    """A host that follows the directory."""
    return hostd.Host(models={**FOLLOWED, "dir": rig.path, **settings}, workers={"drain_timeout_s": 0.4})


# C26


def test_c26_changes_are_notified_whatever_the_period(rig):
    with following(rig, poll_period_s=NEVER_S) as host:
        client = host.client()
        for name in ("a", "b"):
            rig.add(name)
            eventually(lambda name=name: states(client).get(name) == READY, "what comes is loaded")
        (rig.path / "one.py").write_text("def load(path):\n    return lambda: 7\n")
        eventually(lambda: states(client).get("one.py") == READY, "a file that comes is loaded")
        (rig.path / "a").rename(rig.path / "c")
        eventually(lambda: states(client).get("c") == READY, "a new name is loaded")
        eventually(lambda: "a" not in states(client), "an old name is unloaded")
        rig.remove("b")
        (rig.path / "one.py").unlink()
        eventually(lambda: states(client) == {"c": READY}, "what goes is unloaded")


FAILS_ONCE = "if (top / 'deep' / 'weights').read_text() != 'good': raise ValueError('bad weights')"


def test_c26_what_is_not_notified_is_seen_by_the_period(rig):
    with following(rig) as host:
        client = host.client()
        rig.add("m", FAILS_ONCE, {"deep/weights": "bad"})
        eventually(lambda: rig.loads("m") and states(client) == {}, "it is tried, and has failed")
        (rig.path / "m" / "deep" / "weights").write_text("good")
        eventually(lambda: states(client) == {"m": READY}, "its repair is seen, which no notification tells")


# C27: with something that says when it is whole

MARKER = "COMPLETE"


def test_c27_a_lazy_load_of_what_is_being_written_waits_and_keeps_nothing_else(rig, pool):
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None, "completion_marker": MARKER}
    with hostd.Host(models={**models, "load_on_start": False}) as host:
        client = host.client()
        other = client.load_model("other", rig.make())
        for name in ("team/m", "goes", "half"):
            rig.add(name)
        asks = [
            lambda: client.retrieve_model("team/m").predict(5),
            lambda: client.call("team/m", "predict", (5,), {}, None),
            lambda: client.submit("team/m", "predict", (5,), {}, None).result(PATIENCE_S),
        ]
        waiting, in_vain = [pool.submit(ask) for ask in asks], pool.submit(client.retrieve_model, "goes")
        eventually(lambda: {"team/m", "goes"} <= {*states(client)}, "something waits for it")
        with pytest.raises(hostd.DeadlineExceededError):
            client.retrieve_model("team/m", timeout_s=0.1)
        for number in range(20):
            assert other.predict(number) == number
            assert states(client)["team/m"] == "LOADING"
        rig.add("whole", files={MARKER: ""})
        report = client.sync_local_models(wait=True)
        assert (report.loaded, report.failed) == (("whole",), {})
        assert "half" in report.writing
        assert "BEING_WRITTEN" in causes(client, "half")
        assert not any(answer.done() for answer in (*waiting, in_vain))
        assert rig.loads("team/m") == []
        (rig.path / "team/m" / MARKER).touch()
        assert [answer.result(PATIENCE_S) for answer in waiting] == [5] * 3
        assert len(rig.loads("team/m")) == 1
        rig.remove("goes")
        assert isinstance(in_vain.exception(PATIENCE_S), hostd.NotFoundError)


def test_c27_hundreds_that_are_being_written_keep_nothing_else(rig):
    with following(rig, completion_marker=MARKER) as host:
        client = host.client()
        other = client.load_model("other", rig.make())
        for number in range(300):
            rig.add(f"m{number}")
        eventually(lambda: len(states(client)) == 301, "all are seen")
        for number in range(100):
            assert other.predict(number) == number
        rig.add("whole", files={MARKER: ""})
        eventually(lambda: states(client).get("whole") == READY, "what is whole is loaded meanwhile")
        assert rig.loaded_names() - {"../workshop/0"} == {"whole"}
        # Unloading all of them would start as many looks again.
        assert len(client.unload_all_models(timeout_s=PATIENCE_S)) == 302
