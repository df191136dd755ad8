"""What is counted of a model: exact over both ways to its worker, and over its reloads and evictions."""

import os
import signal
import time

import pytest
from helpers import PATIENCE_S, eventually
from models_rig import key, samples

import hostd

MODEL = """
    import asyncio, os, pathlib, time

    class Model:
        def add(self, a, b):
            return a + b

        def fail(self):
            raise ValueError("no")

        def rest(self, seconds):
            time.sleep(seconds)

        def count(self, n):
            yield from range(n)

        def fail_after(self, n):
            yield from range(n)
            raise ValueError("no")

        def endless(self):
            while True:
                yield 1

        def pid(self):
            return os.getpid()

    class Async(Model):
        async def wait(self, marker):
            pathlib.Path(marker).touch()
            await asyncio.sleep(3600)

        async def nap(self, seconds):
            await asyncio.sleep(seconds)

    def load(path, is_async=False):
        return Async() if is_async else Model()
"""

COUNTS = ("calls", "succeeded", "errors", "cancelled", "executions")


@pytest.fixture(scope="module")
def counting_host():
    with hostd.Host(metrics={"port": 0}) as host:
        yield host


@pytest.fixture(params=["directly", "by-host", "both"])
def clients(request, counting_host):
    """Clients that call by turns: over lanes, by the host, or each in its way."""
    ways = {"directly": [True], "by-host": [False], "both": [True, False]}[request.param]
    made = [hostd.connect(counting_host.endpoint, direct=direct) for direct in ways]
    yield made
    made[0].unload_all_models(now=True)
    for client in made:
        client.close()


def counts(client, model_id):
    info = client.get_model(model_id)
    return tuple(getattr(info, name) for name in COUNTS)


def settled(client, model_id, *expected):
    """See that the counts come to this."""
    eventually(lambda: counts(client, model_id) == expected, f"its counts are {expected}")


def test_all_calls_are_counted_once_by_what_became_of_them(clients, model_dir, request):
    model_id = request.node.name
    clients[0].load_model(model_id, model_dir(MODEL))
    models = [client.retrieve_model(model_id) for client in clients]
    n, ways = 20, len(clients)
    for model in models:
        for number in range(n):
            assert model.add(number, 1) == number + 1
        assert list(model.stream.count(100)) == list(range(100))
        for call in (model.fail, lambda model=model: list(model.stream.fail_after(3))):
            with pytest.raises(hostd.ModelError):
                call()
        stream = model.stream.endless()
        assert next(stream) == 1
        stream.close()
    settled(clients[0], model_id, *(ways * each for each in (n + 4, n + 1, 2, 1, n + 4)))
    before = clients[0].get_model(model_id)
    for model in models:
        model.rest(0.05)
        for call in [model.submit.add(number, 1) for number in range(200)]:
            call.result(PATIENCE_S)
    settled(clients[0], model_id, *(ways * each for each in (n + 205, n + 202, 2, 1, n + 205)))
    after = clients[0].get_model(model_id)
    assert after.compute_ns - before.compute_ns >= ways * 50_000_000
    assert after.success_ns - before.success_ns >= after.compute_ns - before.compute_ns
    assert after.queue_ns > before.queue_ns, "calls that were sent together wait for each other"
    assert after.fail_ns == before.fail_ns > 0


def test_a_stream_is_computed_only_while_its_items_are_made(clients, model_dir, request):
    model_id = request.node.name
    clients[0].load_model(model_id, model_dir(MODEL))
    began_ns = time.monotonic_ns()
    for client in clients:
        stream = client.retrieve_model(model_id).stream.endless()
        next(stream)
        client.retrieve_model(model_id).rest(0.1)
        stream.close()
    settled(clients[0], model_id, *(len(clients) * each for each in (2, 1, 0, 1, 2)))
    assert clients[0].get_model(model_id).compute_ns < time.monotonic_ns() - began_ns


def test_coroutines_count_as_all_others(clients, model_dir, tmp_path, request):
    model_id = request.node.name
    clients[0].load_model(model_id, model_dir(MODEL), options={"is_async": True})
    for number, client in enumerate(clients):
        model = client.retrieve_model(model_id)
        naps = [model.submit.nap(0.05) for _ in range(10)]
        waiting = model.submit.wait(str(tmp_path / str(number)))
        eventually((tmp_path / str(number)).exists, "it waits")
        for nap in naps:
            nap.result(PATIENCE_S)
        waiting.cancel()
    settled(clients[0], model_id, *(len(clients) * each for each in (11, 10, 0, 1, 11)))
    assert clients[0].get_model(model_id).compute_ns >= len(clients) * 500_000_000


def test_calls_that_their_worker_takes_with_it_have_failed_and_those_of_clients_that_go_are_cancelled(
    counting_host, clients, model_dir, request
):
    model_id = request.node.name
    path = model_dir(MODEL)
    client = clients[0]
    client.load_model(model_id, path)
    for each in clients:
        model = each.retrieve_model(model_id)
        for _ in range(3):
            model.add(1, 2)
        model.submit.rest(3600)
        eventually(lambda: client.get_model(model_id).workers[0].in_flight == 1, "it rests")
        os.kill(client.get_model(model_id).workers[0].pid, signal.SIGKILL)
        eventually(lambda: client.get_model(model_id).state == "FAILED", "the death is noticed")
        client.load_model(model_id, path)
    ways = len(clients)
    settled(client, model_id, 4 * ways, 3 * ways, ways, 0, 3 * ways)
    with hostd.connect(counting_host.endpoint, direct="directly" in model_id) as other:
        stream = other.retrieve_model(model_id).stream.endless()
        next(stream)
    settled(client, model_id, 4 * ways + 1, 3 * ways, ways, 1, 3 * ways + 1)


def test_counts_go_on_over_reloads_and_evictions_on_the_page_too(model_dir):
    other = model_dir(settings="size: 449MB\n")
    path = model_dir(MODEL)
    with hostd.Host(metrics={"port": 0}, memory={"budget": "450MB", "min_residence_s": 0}) as host:
        client = host.client()
        model = client.load_model("m", path)
        for _ in range(5):
            model.add(1, 2)
        client.load_model("m", path, reload=True).add(1, 2)
        settled(client, "m", 6, 6, 0, 0, 6)
        client.load_model("other", other)
        evicted = client.get_model("m", all=True)
        assert (evicted.state, evicted.calls, evicted.executions) == ("EVICTED", 6, 6)
        page = samples(client.host_info().metrics_port)
        assert page[key("hostd_model_calls_total", model_id="m")] == 6
        assert page[key("hostd_model_calls_total", model_id="other")] == 0
        assert page[key("hostd_model_compute_seconds_total", model_id="m")] == pytest.approx(evicted.compute_ns / 1e9)
        with pytest.raises(hostd.ModelError):
            client.retrieve_model("m").fail()
        settled(client, "m", 7, 6, 1, 0, 7)
        client.unload_model("m")
        client.load_model("m", path)
        settled(client, "m", 0, 0, 0, 0, 0)
        client.call("m", "add", (1, 2), {}, 60)
        client.load_model("other", other)
        client.unload_model("m")
        client.load_model("m", path)
        settled(client, "m", 0, 0, 0, 0, 0)


def test_without_lanes_workers_count_what_they_run(model_dir):
    with hostd.Host(workers={"lanes": False}) as host:
        client = host.client()
        client.load_model("m", model_dir(MODEL)).rest(0.02)
        settled(client, "m", 1, 1, 0, 0, 1)
        assert client.get_model("m").compute_ns >= 20_000_000
