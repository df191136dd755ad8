"""A runtime with a model and nothing else: messages go in by hand, and what is sent is kept."""

from __future__ import annotations

from typing import Any

from hostd_workers.calls.runtime import Runtime
from hostd_workers.methods import methods_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import HostError


class Rig:
    """A runtime around `model`, the messages that it sent, and short ways to send it some."""

    def __init__(self, model: object, **limits: int) -> None:
        self.sent: list[wire.Envelope] = []
        self.runtime = Runtime(methods_of(model, None), lambda frames: self.sent.append(wire.unpack(frames)), **limits)

    def call(self, id: int, method: str, *args: Any, **options: Any) -> None:
        """Have a call arrive; `trace`, `deadline_ms`, `window`, `kind` and `kwargs` are options."""
        kind = options.get("kind", msg.CALL)
        header = msg.pack_target(msg.Target("m", method, options.get("trace"), options.get("window", 0)))
        body, buffers = encode_call(args, options.get("kwargs", {}))
        deadline_ms = options.get("deadline_ms", wire.MAX_DEADLINE_MS)
        self.accept(wire.pack(kind, id, header, body, buffers, deadline_ms))

    def stream(self, id: int, method: str, *args: Any, **options: Any) -> None:
        """Have a stream arrive."""
        self.call(id, method, *args, kind=msg.STREAM, **options)

    def credit(self, id: int, items: int) -> None:
        """Have credit arrive."""
        self.accept(msg.pack_credit(id, items))

    def cancel(self, id: int) -> None:
        """Have a cancel arrive."""
        self.accept(wire.pack(msg.CANCEL, id))

    def accept(self, frames: list[wire.Buffer]) -> None:
        """Have a message arrive as frames."""
        self.runtime.accept(wire.unpack(frames))

    def run(self) -> Rig:
        """Step until there is nothing to do."""
        for _ in range(10_000):
            if not self.runtime.has_work:
                return self
            self.runtime.step()
        raise AssertionError("the runtime never comes to rest")

    def take(self) -> list[tuple[Any, ...]]:
        """Return what was sent since the last time: (id, kind, value or error)."""
        taken, self.sent[:] = list(self.sent), []
        return [(envelope.id, _NAMES[envelope.kind], _value(envelope)) for envelope in taken]

    def brief(self) -> list[tuple[Any, ...]]:
        """Return what was sent since the last time, errors by the names of their statuses."""
        return [
            (id, kind, value.status.name if isinstance(value, HostError) else value) for id, kind, value in self.take()
        ]

    def error(self) -> HostError:
        """Return the only message that was sent, which must be an error."""
        ((_, kind, error),) = self.take()
        assert kind == "ERROR", (kind, error)
        assert isinstance(error, HostError)
        return error


def cancelled(id: int) -> tuple[Any, ...]:
    """Return the end of a call that was cancelled, as `Rig.brief` has it."""
    return (id, "ERROR", "CANCELLED")


def too_late(id: int) -> tuple[Any, ...]:
    """Return the end of a call whose deadline has passed, as `Rig.brief` has it."""
    return (id, "ERROR", "DEADLINE_EXCEEDED")


_NAMES = {msg.RESULT: "RESULT", msg.ITEM: "ITEM", msg.END: "END", msg.ERROR: "ERROR"}


def _value(envelope: wire.Envelope) -> Any:
    if envelope.kind == msg.ERROR:
        return msg.unpack_error(envelope)
    return decode(envelope.body, envelope.buffers)
