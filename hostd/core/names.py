"""What a model may be called.

An id is one or more segments joined by "/" (`team/model`). It may become a path below the models directory, a label of
a metric and a file name of a log, so it is refused unless it is harmless as all three.
"""

from __future__ import annotations

import unicodedata

from hostd.core.events import ModelId
from workers.wire.errors import InvalidArgumentError

MAX_ID_BYTES = 512
MAX_SEGMENT_BYTES = 200
"""A file name may have 255 bytes; a log adds a suffix and an escape for the slash."""

_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode's categories of control, format, surrogate, private, unassigned and separating characters."""


def model_id_of(value: object) -> ModelId:
    """Return the id, checked. Raises `InvalidArgumentError` that says what is wrong with it."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"a model id must be a string, got {type(value).__name__}")
    problem = _problem(value)
    if problem:
        raise InvalidArgumentError(f"{value[:100]!r} cannot be a model id: {problem}")
    return ModelId(value)


def _problem(value: str) -> str | None:
    return _problem_of_text(value) or next(filter(None, map(_problem_of_segment, value.split("/"))), None)


def _problem_of_text(value: str) -> str | None:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if not value.strip():
        return "it is empty"
    if len(encoded) > MAX_ID_BYTES:
        return f"it has {len(encoded)} bytes, at most {MAX_ID_BYTES} are allowed"
    if any(unicodedata.category(c) in _INVISIBLE for c in value):
        return "it has control characters"
    if value != unicodedata.normalize("NFKC", value):
        return "it has characters that only look like others; write it in normalised form (NFKC)"
    return None


def _problem_of_segment(segment: str) -> str | None:
    if not segment:
        return "it has an empty segment: it may not begin or end with / or have two in a row"
    if segment != segment.strip():
        return "a segment begins or ends with white space"
    if segment.startswith("."):
        return "a segment begins with a dot; such names are hidden or mean a parent directory"
    if "\\" in segment:
        return "it has a backslash; separate segments with /"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"a segment has more than {MAX_SEGMENT_BYTES} bytes"
    return None
