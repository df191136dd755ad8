"""Traces that go on in a worker: the spans of a module there belong to the span of its request, and are exported.

The serving process sends with each call what OpenTelemetry's propagators make of the current span, and the worker makes
it the current one while the method runs. It exports spans by itself, as caikit's `runtime.trace` says. A stream's items
are made after the span has ended, as in caikit.
"""

from __future__ import annotations

import contextvars
import os
import sys
from typing import TYPE_CHECKING, TypeVar

from caikit import get_config
from caikit.runtime import trace

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORTED_WITHIN_MS = 200
"""How long a span may wait for others before it leaves a worker: an unload kills it, and with it what waits."""

Answer = TypeVar("Answer")


def configure() -> None:
    """Have this worker export spans, if caikit's configuration says so."""
    settings = get_config().runtime.trace
    if settings and settings.enabled:
        os.environ.setdefault("OTEL_BSP_SCHEDULE_DELAY", str(EXPORTED_WITHIN_MS))
        trace.configure()


def carried() -> dict[str, str]:
    """Return what says in another process which span is the current one; nothing if OpenTelemetry is not in use."""
    carrier: dict[str, str] = {}
    propagate = sys.modules.get("opentelemetry.propagate")
    if propagate is not None:
        propagate.inject(carrier)
    return carrier


def under(carrier: dict[str, str], work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns, under the span that the carrier names.

    In a context of its own, so that an exception that is raised in this thread at any line leaves nothing behind.
    """
    if not carrier:
        return work()
    from opentelemetry import context, propagate  # noqa: PLC0415 - only where the serving process has it

    def within() -> Answer:
        context.attach(propagate.extract(carrier))
        return work()

    return contextvars.copy_context().run(within)
