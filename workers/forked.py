"""A child that the model forks is the model's own: it takes no part in the worker's conversation.

Such a child has a copy of everything, our loop and our socket too. If it left the model's code it would go on as a
second worker that answers its parent's calls. So it ends where it comes back to us, as a program of its own would: with
0, with what it gave to `sys.exit`, or with its traceback and 1.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

EXIT_RAISED = 1

_IN_CHILD = False


def leave(*_: object) -> NoReturn:
    """End a child, which may be handling what it left the model's code with; takes what a callback is given."""
    code = EXIT_RAISED
    try:
        code = _tell(sys.exc_info()[1])
    finally:
        os._exit(code & 0xFF)


def leave_if_child() -> None:
    """End this process if the model forked it: for where its code has returned and there is nothing to send yet."""
    if _IN_CHILD:
        leave()


def _tell(error: BaseException | None) -> int:
    """Say what there is to say of an error, and return the exit code, as Python does."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return EXIT_RAISED
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)  # noqa: T201 - as sys.exit does
    return EXIT_RAISED


def _remember() -> None:
    global _IN_CHILD  # noqa: PLW0603 - of this process, which is another one from here on
    _IN_CHILD = True


os.register_at_fork(after_in_child=_remember)
