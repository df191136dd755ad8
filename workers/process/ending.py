"""The end of a worker by its own doing: words on standard error, last words to the host, and the end of the process.

Python's own way to end waits for threads and runs what was registered with `atexit`; a model that leaves a thread or a
handler behind would keep a process that serves nobody. So nothing of that is waited for or run: a worker that is
unloaded is killed, and nobody may rely on it anyway. Every step here may fail, because the model may have closed or
replaced whatever the step needs, and the process ends all the same.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import traceback
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

ENDS_A_PROCESS: Final = (SystemExit, KeyboardInterrupt)
"""What ends the worker when the model's code raises it. Whatever else that raises ends what it raised it in."""

EXIT_RAISED: Final = 1
"""Python's own code for a program that ends with an exception."""

EXIT_FATAL: Final = 70
"""EX_SOFTWARE of sysexits(3): the worker itself failed, not the model's call."""

ENDING_S: Final = 5.0
"""How long the end may take: its longest step, last words that must leave, has a second."""

_STDERR: Final = 2

_STACK: Final = 1000
"""Python's own limit of recursion: the model may have set one in which nothing can be said."""


def end(
    error: BaseException,
    *,
    say: Callable[[], object] | None = None,
    close: Callable[[], object] | None = None,
    code: int = EXIT_RAISED,
) -> NoReturn:
    """End this process because of an error.

    `say` sends last words and `close` waits until they have left; `code` is the exit code of all that is no SystemExit.
    """
    try:
        _try(lambda: sys.setrecursionlimit(_STACK))
        # A thread in C ends the process if a step hangs, and says where.
        _try(lambda: faulthandler.dump_traceback_later(ENDING_S, exit=True, file=_STDERR))
        # Last words go first: the host should read them before it hears of the exit.
        for step in (say, lambda: tell(error), _flush, close, _flush):
            if step is not None:
                _try(step)
        code = code_of(error, code)
    finally:
        os._exit(code & 0xFF)


def tell(error: BaseException) -> None:
    """Say on standard error why a process ends, as Python does."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    elif error.code is not None and not isinstance(error.code, int):
        print(error.code, file=sys.stderr)  # noqa: T201 - as sys.exit does


def note(error: BaseException) -> None:
    """Leave an error in the model's log of which nobody hears otherwise."""
    _try(lambda: traceback.print_exception(type(error), error, error.__traceback__))


def code_of(error: BaseException, otherwise: int = EXIT_RAISED) -> int:
    """Return the exit code of a process that ends because of an error."""
    if not isinstance(error, SystemExit):
        return otherwise
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    return EXIT_RAISED


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        _try(stream.flush)


def _try(step: Callable[[], object]) -> None:
    with contextlib.suppress(BaseException):
        step()
