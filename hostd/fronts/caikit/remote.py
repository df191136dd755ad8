"""A model in a worker, as the serving process has it: what calls the worker's own methods (`worker.Worker`)."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import hostd
from hostd.fronts.caikit import raised

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hostd.fronts.caikit.hosting import Hosted


class Remote:
    """A model in a worker. Its object in this process has it, and so have the streams that the model has returned."""

    def __init__(self, hosted: Hosted, model_id: str) -> None:
        self.id = model_id
        self.hosted = hosted
        self.wait = hosted.wait
        self.begin = hosted.begin
        weakref.finalize(self, hosted.unload, model_id).atexit = False

    def __repr__(self) -> str:
        return f"<Remote {self.id!r}>"

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the worker, and wait; raises what caikit is told of the host's errors."""
        try:
            return self.wait(self.call(method, *args))
        except hostd.HostError as error:
            made = raised.of_host(error)
            raise made from made.__cause__

    def tell(self, method: str, *args: Any) -> None:
        """Call a method of the worker whose answer is of no interest."""
        self.begin(self.call(method, *args))

    def call(self, method: str, *args: Any) -> Coroutine[Any, Any, Any]:
        """Return the call of a method of the worker, for the loop."""
        return self.hosted.client.call(self.id, method, args, {}, None)

    def stream(self, method: str, *args: Any) -> Any:
        """Return the asynchronous iterator of a method of the worker, for the loop."""
        return self.hosted.client.stream(self.id, method, args, {}, None)
