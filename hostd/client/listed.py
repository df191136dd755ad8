"""The records of a list of models, which the host packs one by one: what was seen before need not be unpacked."""

from __future__ import annotations

from functools import lru_cache

from hostd.records import ModelInfo
from hostd_workers.wire.codec import decode

_REMEMBERED = 1024
"""Records of a kilobyte or three; a list of more models takes longer each time."""


@lru_cache(_REMEMBERED)
def record_of(packed: bytes) -> ModelInfo:
    """Return a record. It is the same object for the same bytes, as nothing of a record is changed once it is made."""
    return ModelInfo.from_dict(decode(packed))
