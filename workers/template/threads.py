"""The number of threads of the libraries that a template has loaded, set in the child.

Libraries read it from the environment when they are loaded, and a template has been loaded with one thread each: so it
has none besides its own, and is safe to fork. A child says how many it wants through the libraries' own interfaces.
OpenMP has a number for each thread: the one that is set is the main thread's, in which plain methods run; threads that
a model starts have one each.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POOLS = pattern(r"/[^/\n]*(?:openblas|mkl_rt|libblis|libgomp|libiomp|libomp)[^/\n]*\.so")

_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
"""What each library asks for, the first that is set."""


class Pools:
    """The pools of threads in the libraries of this process.

    `fixed` says what keeps to one thread, because nothing here can set its number; "" if all can be set.
    """

    def __init__(self) -> None:
        """Look at what is loaded, in the template, once for all children."""
        self._keep([])
        self.fixed = ""
        found = sorted(set(_POOLS.findall(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))))
        if not found:
            return
        try:
            import threadpoolctl  # noqa: PLC0415 - a library of the model's environment, which may lack it
        except ImportError:
            self.fixed = f"nothing can set the threads of {found[0].removeprefix('/')}: install threadpoolctl"
        else:
            self._keep(threadpoolctl.ThreadpoolController().lib_controllers)

    def _keep(self, controllers: Sequence[Any]) -> None:
        """Keep them apart from what is known of each, so that a child touches those alone that it has to change."""
        self._controllers = controllers
        self._known = [(each.internal_api, each.user_api, each.num_threads) for each in controllers]

    def set(self, environment: Mapping[str, str]) -> None:
        """Have each library use as many threads as this environment says, as it would when it is loaded under it."""
        for index, (name, interface, threads) in enumerate(self._known):
            wanted = _wanted(environment, name, interface)
            if wanted not in (None, threads):
                most = len(os.sched_getaffinity(0)) if name == "openblas" else wanted
                self._controllers[index].set_num_threads(min(wanted, most))
        wanted = _wanted(environment, "mkl")
        torch = sys.modules.get("torch")
        if torch is not None and wanted is not None and torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)
        numexpr = sys.modules.get("numexpr")
        with contextlib.suppress(KeyError, ValueError, AttributeError):
            if numexpr is not None:
                numexpr.set_num_threads(int(environment["NUMEXPR_NUM_THREADS"]))


def _wanted(environment: Mapping[str, str], *names: str) -> int | None:
    """Return how many threads a library is to use; None if nothing is said that can be read."""
    variables = next((_VARIABLES[name] for name in names if name in _VARIABLES), ())
    for variable in variables:
        # OpenMP takes a list, a number for each level of nesting.
        first = environment.get(variable, "").partition(",")[0].strip()
        if first.isdecimal():
            return max(1, int(first))
    return None
