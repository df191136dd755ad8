"""A tensor of 16 MiB there and back by each way that a client of Triton has, against this host's own client.

Needs tritonclient (`pip install 'tritonclient[http,grpc]'`).
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.models import model_directory, write_echo
from benchmarks.runner import HOST, Side, alternate, one_at_a_time
from benchmarks.verdicts import By, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.runner import Effort
    from benchmarks.verdicts import Comparison

SIZE_BYTES = 16 << 20
MODEL, METHOD, OUTPUT = "echo", "echo", "output_0"


class _Called:
    """A function as a lane with one call in flight."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call


def large_tensors(effort: Effort) -> Comparison:
    """Measure each way in turn."""
    import tritonclient.grpc  # noqa: PLC0415 - only for this
    import tritonclient.http  # noqa: PLC0415 - as above

    import hostd  # noqa: PLC0415 - as above

    sent = np.random.default_rng(0).integers(0, 255, SIZE_BYTES, np.uint8)
    with contextlib.ExitStack() as stack:
        model = write_echo(stack.enter_context(model_directory()))
        fronts = {"http": 0, "grpc": 0, "anonymous": "load"}
        client = stack.enter_context(stack.enter_context(hostd.Host(fronts=fronts)).client())
        handle = client.load_model(MODEL, str(model))
        urls = {name: url.partition("://")[2] for name, url in client.host_info().fronts.items()}
        over_http = stack.enter_context(tritonclient.http.InferenceServerClient(urls["http"]))
        over_grpc = stack.enter_context(tritonclient.grpc.InferenceServerClient(urls["grpc"]))
        ways: dict[str, Callable[[], Any]] = {
            HOST: lambda: handle.echo(sent),
            f"{HOST}, shared memory": stack.enter_context(_shared(over_grpc, tritonclient.grpc, sent)),
            f"{HOST}, HTTP": lambda: _infer(over_http, tritonclient.http, sent),
            f"{HOST}, gRPC": lambda: _infer(over_grpc, tritonclient.grpc, sent),
        }
        sides = [
            Side(name, partial(one_at_a_time, _Called(call), effort.round_s), is_ours=name != HOST)  # type: ignore[arg-type]
            for name, call in ways.items()
        ]
        rounds = alternate(sides, effort.rounds, effort.patience_s)
        return compare("fronts", "16 MiB there and back", By.LATENCY, sides, rounds)


def _infer(client: Any, library: Any, sent: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tensor = library.InferInput("x", list(sent.shape), "UINT8").set_data_from_numpy(sent)
    answer: np.ndarray[Any, Any] = client.infer(MODEL, [tensor], parameters={"method": METHOD}).as_numpy(OUTPUT)
    return answer


@contextlib.contextmanager
def _shared(client: Any, library: Any, sent: np.ndarray[Any, Any]) -> Any:
    """Give a call whose tensors lie in shared memory, copied into it and out of it."""
    from tritonclient.utils import shared_memory  # noqa: PLC0415 - as above

    regions = [
        shared_memory.create_shared_memory_region(name, f"/hostd-bench-{name}", SIZE_BYTES) for name in ("in", "out")
    ]
    try:
        for name in ("in", "out"):
            client.register_system_shared_memory(name, f"/hostd-bench-{name}", SIZE_BYTES)
        given = library.InferInput("x", list(sent.shape), "UINT8")
        given.set_shared_memory("in", SIZE_BYTES)
        wanted = library.InferRequestedOutput(OUTPUT)
        wanted.set_shared_memory("out", SIZE_BYTES)

        def call() -> Any:
            shared_memory.set_shared_memory_region(regions[0], [sent])
            client.infer(MODEL, [given], outputs=[wanted], parameters={"method": METHOD})
            return shared_memory.get_contents_as_numpy(regions[1], np.uint8, sent.shape).copy()

        yield call
        client.unregister_system_shared_memory()
    finally:
        for region in regions:
            shared_memory.destroy_shared_memory_region(region)
