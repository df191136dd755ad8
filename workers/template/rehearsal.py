"""The first use of a library, where that is slow and makes what every later use has: done once, for all children.

What is called here is public, takes no model, and is of the library alone. It is checked as an import is. Measured, of
the first prediction of a linear model: scikit-learn looks through all installed distributions for makers of data frames
(8 ms of 13), and a child that does so keeps 1.4 MB for it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _use_sklearn(sklearn: Any) -> None:
    sklearn.utils.check_array([[0.0]])


_FIRST_USES: Final[dict[str, Callable[[Any], object]]] = {"sklearn.utils.validation": _use_sklearn}
"""By the module that is imported where it is of use."""


def first_uses() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the modules that are imported and are to be used once, with what does so."""
    for name, use in _FIRST_USES.items():
        if name in sys.modules:
            yield name, partial(use, sys.modules[name.partition(".")[0]])
