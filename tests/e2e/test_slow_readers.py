"""Clients that do not read from the host are dropped; they hear of it, and go on with their next call without help."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
from helpers import PATIENCE_S, REPOSITORY, eventually, line_of, stop
from hostile_peer import MIB

import hostd

BUFFER_BYTES = 8 * MIB

MODEL = """
    import os

    class M:
        def big(self, number):
            return os.urandom(1 << 20)

        def predict(self, x):
            return x

        def small(self, number):
            return os.urandom(20_000)

        def generate(self, count):
            for _ in range(count):
                yield os.urandom(1 << 20)

    def load(path):
        return M()
"""

PRELUDE = """
import asyncio, collections, json, os, sys
import hostd

endpoint = sys.argv[1]

def say(what):
    sys.stdout.write(json.dumps(what) + "\\n")
    sys.stdout.flush()

def outcomes(calls):
    return collections.Counter(type(call.exception()).__name__ for call in calls)
"""

# Each begins more calls than may wait for it, says so, and is stopped; what it says then is what it went through.
WAYS = {
    "sync, a stream": """
        with hostd.connect(endpoint, direct=False) as client:
            model = client.retrieve_model("m")
            items = iter(model.stream.generate(200))
            len(next(items))
            say("begun")
            try:
                say({"None": len(list(items))})
            except hostd.HostError as error:
                say({type(error).__name__: 1})
            say(model.predict(1))
            say([len(item) for item in model.stream.generate(3)])
            say(client.get_model("m").state)
    """,
    "asyncio": """
        async def main():
            async with hostd.AsyncClient(endpoint, direct=False) as client:
                model = await client.retrieve_model("m")
                calls = [asyncio.ensure_future(model.options(timeout_s=60).big(number)) for number in range(400)]
                # Before the first answer they may not have left: what is stopped then has asked for too little.
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                say("begun")
                await asyncio.wait(calls)
                say(outcomes(calls))
                say(await model.predict(1))
                say([len(item) async for item in model.stream.generate(3)])
                say((await client.get_model("m")).state)

        asyncio.run(main())
    """,
    "idle": """
        from hostd.client import connection

        connection.HEARTBEAT_MS = 1500  # instead of 10 s
        with hostd.connect(endpoint, direct=False) as client:
            model = client.retrieve_model("m")
            calls = [client.submit("m", "small", (number,), {}, 60) for number in range(2500)]
            say("begun")
            sys.stdin.readline()
            say(outcomes(calls))
            say(model.predict(1))
    """,
}


@pytest.fixture(scope="module")
def small_host():
    with hostd.Host(
        workers={"drain_timeout_s": 1.0, "max_in_flight": 10_000}, limits={"peer_buffer_bytes": BUFFER_BYTES}
    ) as host:
        yield host


@pytest.fixture
def model(small_host, model_dir):
    with hostd.connect(small_host.endpoint, direct=False) as client:
        yield client.load_model("m", model_dir(MODEL)).options(timeout_s=PATIENCE_S)
        client.unload_all_models()


@pytest.fixture
def start(small_host):
    started = []

    def make(way):
        code = PRELUDE + textwrap.dedent(WAYS[way])
        command = [sys.executable, "-W", "error", "-c", code, small_host.endpoint]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        )
        return started[-1]

    yield make
    for each in started:
        stop(each)


def clients_of(host):
    """Return how many connections there are to the socket for clients."""
    path = host.endpoint.removeprefix("ipc://")
    return sum(each.laddr == path for each in psutil.Process(host.pid).net_connections("unix"))


@pytest.mark.parametrize("way", ["sync, a stream", "asyncio"])
def test_a_client_that_was_stopped_hears_what_it_has_lost_and_goes_on(small_host, model, start, way):
    others = clients_of(small_host)
    process = start(way)
    assert json.loads(line_of(process)) == "begun"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        eventually(lambda: clients_of(small_host) <= others, "the host drops it, or has done so already")
        assert model.predict(2) == 2
    finally:
        os.kill(process.pid, signal.SIGCONT)
    print("go on", file=process.stdin, flush=True)
    lost = json.loads(line_of(process))
    assert set(lost) <= {"NoneType", "UnavailableError"}, lost
    assert lost["UnavailableError"] > 0
    assert json.loads(line_of(process)) == 1
    assert json.loads(line_of(process)) == [MIB] * 3
    assert json.loads(line_of(process)) == "READY"


def test_a_program_that_does_not_read_for_long_survives_that_it_is_dropped(small_host, model, start):
    """libzmq 4.3.5 aborts the program at the next heartbeat over a connection that ended while its input was stopped."""
    others = clients_of(small_host)
    process = start("idle")
    assert json.loads(line_of(process)) == "begun"
    eventually(lambda: clients_of(small_host) <= others, "the host drops it, or has done so already")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)  # some heartbeats
    print("go on", file=process.stdin, flush=True)
    assert json.loads(line_of(process))["UnavailableError"] > 0
    assert json.loads(line_of(process)) == 1
