"""Models that lose their worker's connection to the host while its process lives: the host notices, and says so."""

import contextlib
import re

import pytest
from helpers import PATIENCE_S, descendants, eventually

import hostd

pytestmark = pytest.mark.usefixtures("way")

MODEL = """
    import os, threading

    def replace(*_):
        os.execv("/bin/sleep", ["sleep", "3600"])

    def close_the_connection(*_):
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                    os.close(fd)
            except OSError:
                pass

    def hang(*_):
        threading.Event().wait()

    HOW = {"exec": replace, "socket": close_the_connection}

    class Model:
        def echo(self, x):
            return x

        def lose(self, how):
            HOW[how]()
            hang()

        def lose_later(self, how):
            threading.Timer(0.05, HOW[how]).start()

        def items(self, how):
            yield 1
            self.lose(how)

        def waits(self):
            hang()

    class Later(Model):
        async def lose_on_the_loop(self, how):
            HOW[how]()
            hang()

    def load(path, *, kind="Model", how=None):
        if how:
            HOW[how]()
            hang()
        return {"Model": Model, "Later": Later}[kind]()
"""
HOWS = pytest.mark.parametrize("how", ["exec", "socket"])
SAYS = "lost its connection to the host|killed by SIGABRT"
"""ZeroMQ aborts its process when it uses a socket that was closed, which it may not come to."""


@HOWS
@pytest.mark.parametrize("kind", ["Model", "Later"])
def test_calls_end_with_the_reason_and_a_model_that_is_not_called_does_not_stay_ready(
    shared, model_dir, pool, kind, how
):
    path = model_dir(MODEL)

    def loaded():
        return shared.load_model("m", path, options={"kind": kind}, timeout_s=PATIENCE_S).options(timeout_s=PATIENCE_S)

    model = loaded()
    (worker,) = model.info.workers
    calls = [pool.submit(model.lose, how), pool.submit(model.echo, 1)]
    for call in calls:
        error = call.exception(PATIENCE_S)
        assert error is None or isinstance(error, hostd.UnavailableError)
    assert re.search(SAYS, str(calls[0].exception()))
    assert shared.get_model("m").state == "FAILED"
    assert re.search(SAYS, shared.explain_model("m")["reason"])
    eventually(lambda: worker.pid not in descendants(), "its process is killed")
    with pytest.raises(hostd.FailedPreconditionError, match=SAYS):
        model.echo(1)
    with contextlib.suppress(hostd.UnavailableError):  # it may be lost before its answer is there
        loaded().lose_later(how)
    eventually(lambda: shared.get_model("m").state == "FAILED", "the loss is noticed")
    assert re.search(SAYS, shared.explain_model("m")["reason"])
    model = loaded()
    with pytest.raises(hostd.UnavailableError, match=SAYS):
        # The first item of a stream may be lost, too.
        list(model.stream.items(how)) if kind == "Model" else model.lose_on_the_loop(how)
    with contextlib.suppress(hostd.UnavailableError):  # as above
        loaded().lose_later(how)
    assert shared.unload_model("m", timeout_s=PATIENCE_S).processes >= 1


@HOWS
def test_a_load_fails_with_the_reason(shared, model_dir, how):
    with pytest.raises(hostd.UnavailableError, match=SAYS):
        shared.load_model("m", model_dir(MODEL), options={"how": how}, timeout_s=PATIENCE_S)
    assert shared.load_model("m", model_dir(MODEL), timeout_s=PATIENCE_S).echo(1) == 1


def test_a_load_that_exits_beside_a_living_thread_does_not_wait_for_it(shared, model_dir):
    source = f"{MODEL}\n    threading.Thread(target=hang).start()\n    raise SystemExit('no weights')\n"
    with pytest.raises(hostd.UnavailableError, match="exit code 1; its last words: SystemExit: no weights"):
        shared.load_model("m", model_dir(source), timeout_s=PATIENCE_S)
