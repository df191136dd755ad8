"""What libraries report of their models' inputs and outputs, as signatures.

A library may be of another version than was thought of here, and a model may be anything that looks like one: what
cannot be asked is not known, and ends no load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd_workers.api import Signature, Tensor
from hostd_workers.wire.signatures import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def reported(ask: Callable[[], Mapping[str, Signature]]) -> dict[str, Signature]:
    """Return what `ask` says by method; nothing if the model cannot be asked."""
    try:
        return dict(ask())
    except Exception:  # noqa: BLE001 - an attribute of a model may be a property, which is its own code
        return {}


def signature(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor] = (), passing: Any = "", batch_axis: int | None = None
) -> Signature:
    """Return the signature that a library reports."""
    return Signature(tuple(inputs), tuple(outputs), passing, batch_axis, known_from="reported")


def columns(names: Sequence[str], datatype: str = "", categories: Sequence[str] = ()) -> tuple[Tensor, ...]:
    """Return an input for each column of a table; that of a column with categories takes any values."""
    return tuple(Tensor(str(name), "" if name in categories else datatype, (-1,)) for name in names)


def is_named(names: Sequence[str] | None) -> bool:
    """Say whether columns have names that can be told one by one."""
    return names is not None and 0 < len(names) <= MAX_TENSORS // 4


def sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Return a shape with -1 for what is no fixed size."""
    return tuple(size if type(size) is int and size >= 0 else -1 for size in shape)
