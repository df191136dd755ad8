"""`fronts`: a call over HTTP, a front that is killed, connections that do nothing, and large tensors.

The floor of a call is uvicorn with an application that reads a request of the same size and answers a constant, in a
process of its own: what is above it is ours (JSON to arrays, the way to the worker and back) and the model's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.floors.lane import ROOT
from benchmarks.models import digits_row, model_directory, write_digits
from benchmarks.peers.http import HttpLane
from benchmarks.peers.servers import ask_openly, open_answer
from benchmarks.runner import HOST, Round, Rounds, Side, alternate, in_flight
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.runner import Effort
    from hostd import Client

OVER_HTTP = f"{HOST}, HTTP"
FLOOR = "uvicorn that answers a constant"
BACK_S = 2.0
KILLS = 3
"""A front that ends more often is started again later and later."""

IDLE, SLOW = 2000, 200
PATH = "/v2/models/digits/infer"

CONSTANT = """
import sys, uvicorn
ANSWER = b'{"outputs": [{"data": [0]}]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off", ws="none")
"""


def fronts(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Measure calls, then what becomes of them when a front is killed, and beside connections that do nothing."""
    with contextlib.ExitStack() as stack:
        model = write_digits(stack.enter_context(model_directory()))
        floor = HttpLane(stack.enter_context(_constant()), PATH, ask_openly, open_answer)
        sides = [Side(FLOOR, partial(in_flight, floor, 1, effort.round_s))]
        if not with_host:
            yield compare(
                "fronts", "a call over HTTP", By.LATENCY, sides, alternate(sides, effort.rounds, effort.patience_s)
            )
            return
        import hostd  # noqa: PLC0415 - the floor can be measured without the host
        from benchmarks.ours import DIGITS_ID, HandleLane, classified  # noqa: PLC0415 - as above

        client = stack.enter_context(stack.enter_context(hostd.Host(fronts={"http": 0})).client())
        client.load_model(DIGITS_ID, str(model)).predict(digits_row())
        port = int(client.host_info().fronts["http"].rpartition(":")[2])
        lane = HttpLane(port, PATH, ask_openly, open_answer)
        direct = HandleLane(client, classified())
        for depth, by in ((1, By.LATENCY), (64, By.RATE)):
            sides = [
                Side(FLOOR, partial(in_flight, floor, depth, effort.round_s)),
                Side(HOST, partial(in_flight, direct, depth, effort.round_s), is_ours=True),
                Side(OVER_HTTP, partial(in_flight, lane, depth, effort.round_s), is_ours=True),
            ]
            rounds = alternate(sides, effort.rounds, effort.patience_s)
            yield compare("fronts", f"the digits model over HTTP, {depth} in flight", by, sides, rounds)
        yield _killed(effort, client, lane)
        yield _crowded(effort, port, lane)
    if importlib.util.find_spec("tritonclient"):
        from benchmarks.large_tensors import large_tensors  # noqa: PLC0415 - only where its client is

        yield large_tensors(effort)


@contextlib.contextmanager
def _constant() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with subprocess.Popen([sys.executable, "-c", CONSTANT, str(port)], cwd=ROOT) as server:
        try:
            deadline_s = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if time.monotonic() > deadline_s:
                    raise RuntimeError("the floor does not listen")
                time.sleep(0.01)
            yield port
        finally:
            server.kill()


def _killed(effort: Effort, client: Client, lane: HttpLane) -> Comparison:
    name = "from SIGKILL to the next answer"
    rounds = Rounds({name: [_kill(client, lane) for _ in range(min(KILLS, effort.slow_rounds))]})
    sides = [Side(name, lambda: rounds.of[name][0], is_ours=True)]
    return compare(
        "fronts", "a front that is killed", By.LATENCY, sides, rounds, [Target(name, "", Against.ALONE, BACK_S)]
    )


def _kill(client: Client, lane: HttpLane) -> Round:
    front = _front_of(client.host_info().pid)
    lane.close()
    began_s = time.perf_counter()
    os.kill(front, signal.SIGKILL)
    while True:
        try:
            lane.call()
            break
        except ConnectionError:  # accepted by the one that was killed
            lane.close()
    took_s = time.perf_counter() - began_s
    return Round([took_s], took_s)


def _front_of(supervisor: int) -> int:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return next(int(pid) for pid in children if b"hostd.fronts" in Path(f"/proc/{pid}/cmdline").read_bytes())


def _crowded(effort: Effort, port: int, lane: HttpLane) -> Comparison:
    """Call beside connections that say nothing, and others that have begun a request and do not go on."""
    alone, beside = "alone", f"beside {IDLE} idle connections and {SLOW} slow ones"
    with contextlib.ExitStack() as stack:
        before = in_flight(lane, 1, effort.round_s)
        for number in range(IDLE + SLOW):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if number >= IDLE:
                connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\nx".encode())
        lane.call()  # the server has taken them all
        during = in_flight(lane, 1, effort.round_s)
    rounds = Rounds({alone: [before], beside: [during]})
    sides = [Side(alone, lambda: before, is_ours=True), Side(beside, lambda: during, is_ours=True)]
    return compare("fronts", "connections that do nothing", By.TAIL, sides, rounds)
