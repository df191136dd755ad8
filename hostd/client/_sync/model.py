# Generated from hostd/client/_async/model.py by .ci/unasync.py: edit that one.
"""The handle of a model: the part of it that asks the host."""

from __future__ import annotations

from hostd.client.handle import Handle
from hostd.records import SERVING, ModelInfo
from hostd_workers.wire.errors import NotFoundError


class Model(Handle):
    """A model in the host; its methods are those of the loaded object, and run in its worker.

    `model.predict(x)` calls the model's `predict`, `model(x)` its default method, `model.submit.predict(x)`
    begins a call without waiting, `for item in model.stream.generate(p)` iterates over what a generator yields,
    and `model.options(timeout_s=0.5)` is the same model with another timeout.
    """

    _can_ask = True

    @property
    def info(self) -> ModelInfo:
        """The model's record as it is now (asks the host)."""
        self._info = self._caller.get_model(self.id)
        return self._info

    @property
    def size(self) -> int:
        """The resident memory of the model's processes in bytes, as last measured (asks the host)."""
        return int(self._caller.get_model_size(self.id))

    @property
    def loaded(self) -> bool:
        """Whether the model serves (asks the host)."""
        return self._state() in SERVING

    @property
    def loading(self) -> bool:
        """Whether the model is still being loaded (asks the host)."""
        return self._state() == "LOADING"

    def _state(self) -> str:
        try:
            info = self.info
        except NotFoundError:
            return "UNLOADED"
        return info.state

    def wait(self, timeout_s: float | None = None) -> Model:
        """Wait until the load has ended; raises its error if it failed. Returns the model itself."""
        # With the generation the host can tell the error of just that load, if it has failed meanwhile.
        asked = {"model_id": self.id, "generation": self._info.generation}
        self._info = ModelInfo.from_dict(self._caller._verb("retrieve_model", timeout_s, **asked))  # noqa: SLF001 - one of us
        return self

    def options(self, *, timeout_s: float | None) -> Model:
        """Return the same model with another timeout for its calls, in seconds (None: no deadline)."""
        return Model(self._caller, self._info, timeout_s)
