"""Something that comes and goes all the time, while a test walks over it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def again_and_again(step: Callable[[], object]) -> Iterator[None]:
    """Do a step in another thread, until the block ends."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            step()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
