"""The check of `hostd doctor` that proves the rest: a private host starts one real worker, calls it and unloads it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import hostd
from hostd.cli.doctor.checks import Check, Verdict
from hostd.units import format_duration, format_size

_NAME = "worker"
_ADVICE = "if that does not tell what to do: hostd serve --log-level debug"
_MODEL = """def load(path):
    return lambda x: x + 1
"""


def one_worker() -> Check:
    """Host a model of two lines for as long as one call takes, with the interpreter that the settings name."""
    began_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hostd-doctor-") as folder:
            Path(folder, "model.py").write_text(_MODEL, encoding="ascii")
            return _called(folder, began_s)
    except (hostd.HostError, OSError) as error:
        return Check(_NAME, Verdict.FAIL, f"no worker could be started and called: {error}", _ADVICE)


def _called(folder: str, began_s: float) -> Check:
    from hostd.config.loading import load_config  # noqa: PLC0415 - what is wrong with it is part of the answer

    python = load_config().workers.python
    with hostd.Host(workers={"python": python} if python else {}) as host:
        client = host.client()
        model = client.load_model("doctor", folder)
        answer = model(41)
        size_bytes, report = model.size, client.unload_model("doctor")
    took = format_duration(time.monotonic() - began_s)
    if answer != 42 or report.processes != 1:
        found = f"it answered {answer!r} for 41 + 1, and {report.processes} processes ended with it"
        return Check(_NAME, Verdict.FAIL, found, "reinstall hostd; if it stays, report it")
    found = f"one was started, called and unloaded in {took}; it took {format_size(size_bytes)} of memory"
    return Check(_NAME, Verdict.OK, found)
