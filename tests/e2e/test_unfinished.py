"""Long messages of one process: few of them are under way at a time, and all of them come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from attacks.raw import MORE, RawPeer, announced, call, frame
from helpers import PATIENCE_S

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB = 10**6

MODEL = """
    class M:
        def predict(self, x):
            return len(x)

    def load(path):
        return M()
"""


@pytest.fixture(scope="module")
def small_host() -> Iterator[hostd.Host]:
    with hostd.Host(workers={"drain_timeout_s": 1.0}, limits={"peer_buffer_bytes": 1 << 20}) as host:
        yield host


@pytest.fixture
def model(small_host: hostd.Host, model_dir: Callable[..., str]) -> Iterator[Any]:
    with hostd.connect(small_host.endpoint) as client:
        yield client.load_model("m", model_dir(MODEL)).options(timeout_s=PATIENCE_S)
        client.unload_all_models()


def test_long_calls_over_many_connections_of_one_process_are_all_answered(small_host: hostd.Host, model: Any) -> None:
    payload = bytes(30 * MB)
    over = threading.Event()

    def send() -> list[int]:
        with hostd.connect(small_host.endpoint) as client:
            mine = client.retrieve_model("m").options(timeout_s=PATIENCE_S)
            return [mine.predict(payload) for _ in range(3)]

    def send_little() -> int:
        answers = 0
        while not over.wait(0.01):
            answers += model.predict(b"x")
        return answers

    with ThreadPoolExecutor(7) as threads:
        little = threads.submit(send_little)
        try:
            assert [each.result() for each in [threads.submit(send) for _ in range(6)]] == [[len(payload)] * 3] * 6
        finally:
            over.set()
        assert little.result()


def test_a_message_that_does_not_go_on_is_given_up_for_the_others_of_its_process(
    small_host: hostd.Host, model: Any
) -> None:
    with RawPeer(small_host.endpoint.removeprefix("ipc://")).greet() as peer:
        begun = frame(call("m", "predict", 5)[0], MORE) + announced(100 * MB) + bytes(3 * MB)
        assert peer.push(begun, lambda: False) == len(begun)
        assert model.predict(bytes(30 * MB)) == 30 * MB
        assert peer.read_until(peer.told), "it was not dropped"
