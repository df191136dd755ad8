"""The records of models in the form in which they are sent: each is made and encoded once per change.

What a record is made of is collected for every answer, so none can be stale: it is compared, not invalidated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.describing import Facts, describe
from hostd.labels import has_labels
from hostd_workers.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hostd.core.values import ModelId
    from hostd.records import ModelInfo


class Records:
    """The last records of the models of one host; a kilobyte each, for as long as the models are listed."""

    def __init__(self) -> None:
        self._made: dict[ModelId, tuple[Facts, bytes]] = {}

    def encoded(self, models: Iterable[Facts | ModelInfo], labels: Mapping[str, str]) -> Iterator[bytes]:
        """Yield, in their order, the records of those that have the labels, of all that are loaded and of others."""
        seen: dict[ModelId, tuple[Facts, bytes]] = {}
        for model in models:
            if not has_labels(model.labels, labels):
                if isinstance(model, Facts) and model.id in self._made:
                    seen[model.id] = self._made[model.id]
                continue
            if not isinstance(model, Facts):
                yield body_of(model)
                continue
            made = self._made.get(model.id)
            if made is None or made[0] != model:
                made = self._made[model.id] = (model, body_of(describe(model)))
            seen[model.id] = made
            yield made[1]
        self._made = seen


def body_of(model: ModelInfo) -> bytes:
    """Return a record as it is sent."""
    body, _ = encode(model.to_brief_dict())
    return body
