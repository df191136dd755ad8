"""Calls that go to a worker directly: nobody has to know, and all that holds by the host holds there."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from helpers import PATIENCE_S, eventually

import hostd

SOURCE = """
    import os, pathlib, time

    class Model:
        kept = []
        def echo(self, x):
            return x
        def fail(self):
            raise ValueError("no")
        def die(self, how):
            os.kill(os.getpid(), how)
        def hold(self, gate, seconds=60):
            until = time.monotonic() + seconds
            while not pathlib.Path(gate).exists() and time.monotonic() < until:
                time.sleep(0.002)
            return "waited"
        def count(self, n):
            yield from range(n)
        def keep(self, array):
            self.kept.append(array)
            return float(array.sum())
        def sums(self):
            return [float(array.sum()) for array in self.kept]
        def grow(self, mib):
            self.held = bytearray(mib << 20)
            return mib

    def load(path):
        return Model()
"""


@pytest.fixture(scope="module")
def host():
    with hostd.Host(workers={"drain_timeout_s": PATIENCE_S}) as host:
        yield host


@pytest.fixture
def client(host):
    with hostd.connect(host.endpoint) as client:
        yield client
        client.unload_all_models(now=True)


@pytest.fixture
def model(client, model_dir):
    return client.load_model("m", model_dir(SOURCE))


def lanes_of(client):
    return [lane.model_id for lane in client._channel._lanes.open.values()]


def on_a_lane(client, model):
    """Call a model until its calls go directly."""
    eventually(lambda: model.echo(1) and model.id in lanes_of(client), "the calls go directly")
    return model


def test_a_model_that_is_called_again_is_called_directly_and_everything_works(client, model):
    on_a_lane(client, model)
    assert model.echo({"a": [1, None, b"x"]}) == {"a": [1, None, b"x"]}
    with pytest.raises(hostd.ModelError, match="no"):
        model.fail()
    with pytest.raises(hostd.InvalidArgumentError):
        model.echo()
    assert list(model.map.echo(range(300))) == list(range(300))
    assert [call.result() for call in [model.submit.echo(n) for n in range(300)]] == list(range(300))
    assert list(model.stream.count(300)) == list(range(300))
    first = next(iter(model.stream.count(10**9)))
    assert (first, lanes_of(client)) == (0, ["m"])


def test_what_clients_counted_is_what_the_host_shows(host, client, model):
    counted, before = 50, client.get_model("m")

    def work():
        with hostd.connect(host.endpoint) as other:
            mine = other.retrieve_model("m")
            for n in range(counted):
                assert mine.echo(n) == n
            for _ in range(3):
                with pytest.raises(hostd.ModelError):
                    mine.fail()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    info = client.get_model("m")
    grown = (info.calls - before.calls, info.errors - before.errors)
    assert (*grown, info.workers[0].in_flight) == (8 * (counted + 3), 8 * 3, 0)
    assert time.time() - info.last_used_s < PATIENCE_S
    assert info.latency_p50_s > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV], ids=["killed", "crashed"])
def test_all_that_were_in_flight_hear_why_the_worker_died(client, model, tmp_path, how):
    on_a_lane(client, model)
    calls = [model.submit.hold(str(tmp_path / "gate")) for _ in range(3)]
    eventually(lambda: client.get_model("m").workers[0].in_flight >= 1, "a call runs")
    os.kill(client.get_model("m").workers[0].pid, how)
    errors = [call.exception() for call in calls]
    assert {type(error) for error in errors} == {hostd.UnavailableError}
    assert all(how.name in error.message for error in errors), errors


def test_an_unload_waits_for_what_was_accepted_and_gives_the_rest_to_the_host(client, model, tmp_path):
    on_a_lane(client, model)
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(lambda: list(model.map.hold([str(gate)] * 5)))  # they leave together, and come together
        eventually(lambda: client.get_model("m").workers[0].in_flight == 5, "all have come")
        unload_while_calls_run(client, model, gate)
        assert answers.result(PATIENCE_S) == ["waited"] * 5
    with pytest.raises(hostd.NotFoundError):
        model.echo(1)


def unload_while_calls_run(client, model, gate):
    unload = threading.Thread(target=client.unload_model, args=("m",))
    unload.start()
    eventually(lambda: client.get_model("m").state == "UNLOADING", "it is being unloaded")
    with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
        model.echo(1)
    gate.touch()
    unload.join(PATIENCE_S)


def test_an_unload_at_once_ends_them(client, model, tmp_path):
    on_a_lane(client, model)
    call = model.submit.hold(str(tmp_path / "gate"))
    eventually(lambda: client.get_model("m").workers[0].in_flight == 1, "it runs")
    client.unload_model("m", now=True)
    assert isinstance(call.exception(), hostd.AbortedError)


def test_a_reload_is_found_again_by_the_same_handle(client, model, model_dir):
    on_a_lane(client, model)
    first = client.get_model("m").workers[0].pid
    client.load_model("m", reload=True)
    on_a_lane(client, model)
    assert client.get_model("m").workers[0].pid != first


def test_a_deadline_is_kept_while_the_model_is_busy(client, model, tmp_path):
    on_a_lane(client, model)
    with pytest.raises(hostd.DeadlineExceededError, match="the deadline passed before the model answered"):
        model.options(timeout_s=0.2).hold(str(tmp_path / "gate"))
    (tmp_path / "gate").touch()
    assert model.echo(1) == 1


def test_a_call_that_is_cancelled_is_not_begun(client, model, tmp_path):
    on_a_lane(client, model)
    running, waiting = (model.submit.hold(str(tmp_path / "gate")) for _ in range(2))
    assert waiting.cancel()
    (tmp_path / "gate").touch()
    assert running.result() == "waited"
    eventually(lambda: client.get_model("m").workers[0].in_flight == 0, "nothing is left")


def test_arrays_that_a_model_or_a_caller_keeps_never_change(client, model):
    np = pytest.importorskip("numpy")
    on_a_lane(client, model)
    kept = []
    for n in range(20):
        array = np.full(100_000, n, dtype="f8")
        assert model.keep(array) == n * 100_000.0
        kept.append(model.echo(array))
        array[:] = -1
    assert model.sums() == [n * 100_000.0 for n in range(20)]
    assert [float(array.sum()) for array in kept] == [n * 100_000.0 for n in range(20)]


def shared_by(pid):
    """Return how many bytes of the shared memory of lanes a process has mapped that are there."""
    with open(f"/proc/{pid}/smaps") as file:
        maps = file.read().split("memfd:hostd-lane ")[1:]
    return sum(int(each.split("Rss:")[1].split()[0]) << 10 for each in maps)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_memory_that_was_shared_goes_back_when_nothing_happens_for_a_while(host, client, model, kind):
    np = pytest.importorskip("numpy")
    on_a_lane(client, model)
    worker = client.get_model("m").workers[0].pid
    array = np.ones(1 << 20)

    async def story():
        async with hostd.AsyncClient(host.endpoint) as other:
            mine = await other.retrieve_model("m")
            while not other._channel._lanes.open:
                await mine.echo(1)
            await mine.echo(array)
            await mine.echo(1)
            assert shared_by(worker) >= array.nbytes
            await asyncio.to_thread(all_gone)

    def all_gone():
        eventually(lambda: shared_by(worker) == shared_by(os.getpid()) == 0, "the memory has gone back")

    if kind == "asyncio":
        asyncio.run(story())
    else:
        model.echo(array)
        model.echo(1)
        assert shared_by(worker) >= array.nbytes
        all_gone()


def test_the_asyncio_client_calls_directly_too(host, client, model, tmp_path):
    async def story():
        async with hostd.AsyncClient(host.endpoint) as other:
            mine = await other.retrieve_model("m")
            for n in range(5):
                assert await mine.echo(n) == n
            await asyncio.sleep(0)
            assert await asyncio.gather(*[mine.echo(n) for n in range(200)]) == list(range(200))
            assert [item async for item in mine.stream.count(200)] == list(range(200))
            assert [lane.model_id for lane in other._channel._lanes.open.values()] == ["m"]
            waiting = asyncio.ensure_future(mine.hold(str(tmp_path / "gate")))
            await asyncio.to_thread(eventually, lambda: client.get_model("m").workers[0].in_flight, "a call runs")
            os.kill(client.get_model("m").workers[0].pid, signal.SIGKILL)
            with pytest.raises(hostd.UnavailableError, match="SIGKILL"):
                await waiting

    asyncio.run(story())


def test_a_forked_child_leaves_its_parents_lane_alone(client, model):
    on_a_lane(client, model)
    child = os.fork()
    if not child:
        try:
            client.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (model.echo(2), lanes_of(client)) == (2, ["m"])


def test_a_client_that_is_killed_leaves_nothing_of_its_calls(host, client, model, tmp_path):
    program = (
        "import hostd, sys\n"
        f"client = hostd.connect({host.endpoint!r})\n"
        "model = client.retrieve_model('m')\n"
        "for n in range(5): model.echo(n)\n"
        f"calls = [model.submit.hold({str(tmp_path / 'gate')!r}) for _ in range(50)]\n"
        "print('sent', flush=True); sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"sent\n"
        process.kill()
    (tmp_path / "gate").touch()
    eventually(lambda: client.get_model("m").workers[0].in_flight == 0, "its calls have ended")
    assert model.echo(1) == 1


def test_a_host_may_do_without_lanes(model_dir):
    with hostd.Host(workers={"lanes": False}) as host, host.client() as client:
        model = client.load_model("m", model_dir(SOURCE))
        assert [model.echo(n) for n in range(20)] == list(range(20))
        assert lanes_of(client) == []


def test_a_worker_looks_for_news_before_it_sleeps_if_the_host_says_so(model_dir):
    with hostd.Host(workers={"spin_s": 0.01}) as host, host.client() as client:
        model = on_a_lane(client, client.load_model("m", model_dir(SOURCE)))
        worker = psutil.Process(model.info.workers[0].pid)

        def sleeps():
            before = worker.num_ctx_switches().voluntary
            assert [model.echo(number) for number in range(50)] == list(range(50))
            return worker.num_ctx_switches().voluntary - before

        eventually(lambda: sleeps() < 25, "it answers without sleeping before each call, when it has a core")


def test_nothing_is_left_of_lanes_in_the_runtime_directory(model_dir):
    with hostd.Host() as host, host.client() as client:
        on_a_lane(client, client.load_model("m", model_dir(SOURCE)))
        directory = client.host_info().runtime_dir
        assert [name for name in os.listdir(directory) if name.startswith("lane-")]
        client.unload_model("m")
        assert not [name for name in os.listdir(directory) if name.startswith("lane-")]
