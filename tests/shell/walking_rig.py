"""Something that comes and goes all the time, while a test walks over it."""

import contextlib
import threading


@contextlib.contextmanager
def again_and_again(step):
    """Do a step in another thread, until the block ends."""
    is_over = threading.Event()

    def go_on():
        while not is_over.is_set():
            step()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
