"""A child that the model forks is the model's own: it takes no part in the worker's conversation.

Such a child has a copy of everything, our loop and our socket too. If it left the model's code it would go on as a
second worker that answers its parent's calls. So it ends where it comes back to us, as a program of its own would: with
0, with what it gave to `sys.exit`, or with its traceback and 1.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from hostd_workers.process.ending import EXIT_RAISED, code_of, tell

_IN_CHILD = False


def leave(*_: object) -> NoReturn:
    """End a child, which may be handling what it left the model's code with; takes what a callback is given."""
    code = EXIT_RAISED
    try:
        error = sys.exc_info()[1]
        code = 0 if error is None else code_of(error)
        if error is not None:
            tell(error)
    finally:
        os._exit(code & 0xFF)


def leave_if_child() -> None:
    """End this process if the model forked it: for where its code has returned and there is nothing to send yet."""
    if _IN_CHILD:
        leave()


def is_the_worker() -> None:
    """Take this process for the worker itself: a template has forked it, and not a model."""
    global _IN_CHILD  # noqa: PLW0603 - as below
    _IN_CHILD = False


def _remember() -> None:
    global _IN_CHILD  # noqa: PLW0603 - of this process, which is another one from here on
    _IN_CHILD = True


os.register_at_fork(after_in_child=_remember)
