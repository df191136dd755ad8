"""A host that takes uploads into memory, and fails where a test wants it to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fake_host import FakeHost, Frames

    from hostd_workers.wire.errors import HostError

RECORD = {"id": "m", "state": "READY", "path": "/models/m", "type": "standalone-model"}


class Uploads:
    """The answers of a `FakeHost`; `verbs` are the requests in their order, `written` what was sent by name."""

    def __init__(self, *, max_message_bytes: int = 1 << 30) -> None:
        self.max_message_bytes = max_message_bytes
        self.verbs: list[tuple[str, dict[str, Any]]] = []
        self.written: dict[str, bytearray] = {}
        self.fails: dict[str, HostError] = {}
        self.on_write: Callable[[int], None] = lambda count: None
        self.holds_back = False
        """Whether writes wait for `let_go`."""
        self.held: list[wire.Envelope] = []
        self.most_unanswered = 0
        self.keeps_data = True
        self.silent: set[str] = set()
        """Verbs that are never answered."""

    def __call__(self, host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        if request.kind == msg.HELLO:
            welcome = {"version": 1, "supported": [1], "epoch": "e", "max_message_bytes": self.max_message_bytes}
            yield msg.pack_map(msg.WELCOME, request.id, welcome)
        elif request.kind == msg.VERB:
            verb, arguments = msg.unpack_verb(request.header), msg.unpack_map(request)
            self.verbs.append((verb, arguments))
            if verb == "deploy_write":
                self.on_write(len(self.named("deploy_write")))
                if self.holds_back:
                    self.held.append(request)
                    self.most_unanswered = max(self.most_unanswered, len(self.held))
                    return
            if verb in self.silent:
                return
            if verb in self.fails:
                yield msg.pack_error(request.id, self.fails[verb])
            else:
                yield result(request, self._serve(verb, arguments))

    def _serve(self, verb: str, arguments: dict[str, Any]) -> Any:
        if verb == "deploy_begin":
            self.names = [name for name, _ in arguments["files"]]
            self.written = {name: bytearray() for name in self.names}
            return {"upload": 17}
        if verb == "deploy_write":
            file = self.written[self.names[arguments["file"]]]
            if self.keeps_data:
                assert arguments["offset"] == len(file), "the pieces of a file come in their order"
                file += arguments["data"]
            return None
        return RECORD if verb == "deploy_commit" else None

    def let_go(self, host: FakeHost, error: HostError | None = None) -> None:
        """Answer the write that has waited for the longest."""
        request = self.held.pop(0)
        host.say(msg.pack_error(request.id, error) if error else result(request, None))

    def named(self, verb: str) -> list[dict[str, Any]]:
        """Return the arguments of the requests of one verb."""
        return [arguments for name, arguments in self.verbs if name == verb]

    @property
    def order(self) -> list[str]:
        """The verbs that came, those that repeat once."""
        names = [name for name, _ in self.verbs]
        return [name for before, name in zip([None, *names], names, strict=False) if before != name]


def result(request: wire.Envelope, value: Any) -> Frames:
    body, buffers = encode(value)
    return wire.pack(msg.RESULT, request.id, body=body, buffers=buffers)
