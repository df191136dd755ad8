"""A model in a worker, as the serving process has it: what calls the worker's own methods (`worker.Worker`)."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import hostd
from hostd.fronts.caikit import raised
from hostd.fronts.caikit.hosting import FINDER

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hostd.fronts.caikit.hosting import Hosted


class Remote:
    """A model in a worker. Its object in this process has it, and so have the streams that the model has returned."""

    def __init__(
        self, hosted: Hosted, model_id: str, model_type: str, path: str | None, options: dict[str, Any]
    ) -> None:
        self.id = model_id
        self.hosted = hosted
        self._load = functools.partial(
            hosted.client.load_model, model_id, path, model_type, finder=FINDER, options=options, retries=0
        )
        self.wait = hosted.wait
        self.begin = hosted.begin
        weakref.finalize(self, hosted.unload, model_id).atexit = False

    def __repr__(self) -> str:
        return f"<Remote {self.id!r}>"

    def load(self) -> None:
        """Load the model; raises what caikit is told of the host's errors."""
        try:
            self.wait(self._load())
        except hostd.HostError as error:
            made = raised.of_host(error)
            raise made from made.__cause__

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the worker, and wait; raises what caikit is told of the host's errors.

        A model whose process has died is loaded anew by the next call, because caikit would never do it.
        """
        try:
            try:
                return self.wait(self.call(method, *args))
            except hostd.FailedPreconditionError:  # the call was not begun
                self.load()
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
