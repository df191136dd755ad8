"""The environment that a worker process is started with.

Covers what the environment says: which worker it is, how many threads its libraries may use, how the kernel is to treat
it when memory runs out. Does not cover the start itself (`processes`); `workers/_bootstrap/run.py` reads the other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.shell.linux.marks import HOST_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
"""What numerical libraries ask for the number of their threads, once, when they are imported."""

TOKEN_VARIABLE = "HOSTD_WORKER_TOKEN"  # noqa: S105 - the name of one
"""Under what a worker connects. It forgets it, so what it starts later does not inherit it."""

OOM_SCORE_RAISE = 300
"""How much sooner than the supervisor a worker is killed when memory runs out, in thousandths of the memory there is
(proc(5), oom_score_adj): also a worker that is smaller than the program around the host by less than that."""

_MAX_OOM_SCORE_ADJ = 1000

_DATA_LIMIT_FACTOR = 2
_DATA_LIMIT_EXTRA_BYTES = 1 << 30
"""RLIMIT_DATA counts private memory that is merely mapped (setrlimit(2)): 8 MiB for the stack of each thread, arenas
and pools that reserve much more than they use. So there is much headroom; the limit itself is kept by
measuring."""


def oom_score_adj_of_worker(own: int) -> int:
    """Return the oom_score_adj of a worker, of the supervisor's own."""
    return min(own + OOM_SCORE_RAISE, _MAX_OOM_SCORE_ADJ)


def oom_score_adj_of_workers() -> int:
    """Return what the workers of this process get: when memory runs out, they go before it."""
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:  # noqa: PTH123 - it is read before most imports
            own = int(file.read())
    except (OSError, ValueError):
        own = 0
    return oom_score_adj_of_worker(own)


def data_limit_bytes(limit_bytes: int) -> int:
    """Return the RLIMIT_DATA of a worker with this memory limit.

    A backstop: one allocation that is many times over the limit raises MemoryError in the worker, rather than taking
    the machine's memory between two looks of the sampler.
    """
    return limit_bytes * _DATA_LIMIT_FACTOR + _DATA_LIMIT_EXTRA_BYTES


def template_environment(
    base: Mapping[str, str], *, spec_env: Mapping[str, str], supervisor_pid: int, oom_score_adj: int, host: str
) -> dict[str, str]:
    """Return the environment of a template: that of its workers, but for what is of one worker alone.

    Libraries start no threads in it; its children set the number that they were given (`hostd_workers.template`).
    """
    return {
        **base,
        **spec_env,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        "PYTHONUNBUFFERED": "1",
        HOST_VARIABLE: host,
        "HOSTD_TEMPLATE": "1",
        "HOSTD_SUPERVISOR_PID": str(supervisor_pid),
        "HOSTD_OOM_SCORE_ADJ": str(oom_score_adj),
    }


def worker_environment(
    base: Mapping[str, str],
    *,
    model_id: str,
    spec_env: Mapping[str, str],
    token: str,
    endpoint: str,
    supervisor_pid: int,
    cpu_threads: int,
    limit_bytes: int | None,
    oom_score_adj: int,
    host: str,
) -> dict[str, str]:
    """Return the environment of a worker.

    `base` is the host's own environment and `spec_env` what the model's settings add to it; a number of threads that
    one of them sets for a library stands. `oom_score_adj` is the worker's own, `host` its host's mark (`leftovers`).
    """
    environment = {
        **dict.fromkeys(THREAD_VARIABLES, str(cpu_threads)),
        **base,
        **spec_env,
        "PYTHONUNBUFFERED": "1",
        "HOSTD_MODEL_ID": model_id,
        HOST_VARIABLE: host,
        "HOSTD_SUPERVISOR_PID": str(supervisor_pid),
        "HOSTD_WORKER_ENDPOINT": endpoint,
        TOKEN_VARIABLE: token,
        "HOSTD_CPU_THREADS": str(cpu_threads),
        "HOSTD_OOM_SCORE_ADJ": str(oom_score_adj),
    }
    # One that the host was started with is not this worker's.
    environment.pop("HOSTD_DATA_LIMIT_BYTES", None)
    if limit_bytes is not None:
        environment["HOSTD_DATA_LIMIT_BYTES"] = str(data_limit_bytes(limit_bytes))
    return environment
