"""Labels: short names and values by which people find models again, such as {"team": "a"}. Nothing follows from them.

Their form is that of Kubernetes' labels (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/).
"""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING, Final

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LABELS: Final = 64
"""Of one model: they are in each of its records."""

_MAX_PREFIX: Final = 253
_WORD: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_FORM: Final = "up to 63 letters, digits, '-', '_' and '.' of ASCII, the first and the last a letter or a digit"


def labels_of(value: object) -> dict[str, str]:
    """Return labels, checked. Raises `InvalidArgumentError` that says what is wrong with them."""
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"labels must be a map of texts to texts, got {type(value).__name__}")
    if len(value) > MAX_LABELS:
        raise InvalidArgumentError(f"a model may have {MAX_LABELS} labels, and {len(value)} were given")
    for key, text in value.items():
        _check(key, text)
    return dict(value)


def has_labels(labels: Mapping[str, str] | None, wanted: Mapping[str, str]) -> bool:
    """Say whether all that are wanted are among these labels."""
    return wanted.items() <= (labels or {}).items()


def shown(labels: Mapping[str, str]) -> str:
    """Return labels as people write them: team=a, tier=test."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _check(key: object, value: object) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise InvalidArgumentError(f"a label is a text with a text as its value, got {_cut(key)}: {_cut(value)}")
    prefix, slash, name = key.rpartition("/")
    if not _WORD.fullmatch(name):
        raise InvalidArgumentError(f"{_cut(key)} cannot be a label: its name must be {_FORM}")
    if slash and (len(prefix) > _MAX_PREFIX or not _DOMAIN.fullmatch(prefix)):
        raise InvalidArgumentError(
            f"{_cut(key)} cannot be a label: before the / must be the name of a domain in lower case, such as "
            f"example.org, of up to {_MAX_PREFIX} characters"
        )
    if value and not _WORD.fullmatch(value):
        raise InvalidArgumentError(f"the label {_cut(key)} cannot be {_cut(value)}: it must be empty, or {_FORM}")


def _cut(value: object) -> str:
    return reprlib.repr(value)
