"""Another client, in a program of its own: `python -m attacks.victim ENDPOINT` calls until its standard input ends.

It calls an echo of 64 bytes with one call in flight, and asks for the list of models now and then. Prints a line after
its first answer, and at the end all calls in JSON: `[what, sent at (time.monotonic), seconds, error or ""]`.
"""

import json
import sys
import threading
import time
from functools import partial

import hostd
from attacks.attack import CONNECT_S, PATIENCE_S, VICTIM

ECHO, LIST = "echo", "list_models"
PAYLOAD = bytes(64)
LIST_PERIOD_S = 0.25
AFTER_FAILURE_S = 0.05
"""Failures come quicker than answers; they shall not outnumber them by that."""


def main():
    """Call until told to stop."""
    calls = []
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    with hostd.connect(sys.argv[1], timeout_s=PATIENCE_S, connect_timeout_s=CONNECT_S) as client:
        echo = partial(client.retrieve_model(VICTIM).echo, PAYLOAD)
        echo()
        print("calling", flush=True)
        list_s = time.monotonic()
        while not is_over.is_set():
            calls.append(_timed(ECHO, echo))
            if time.monotonic() >= list_s:
                calls.append(_timed(LIST, client.list_models))
                list_s = time.monotonic() + LIST_PERIOD_S
            if calls[-1][-1]:
                is_over.wait(AFTER_FAILURE_S)
    print(json.dumps(calls), flush=True)


def _timed(what, ask):
    sent_s, error = time.monotonic(), ""
    try:
        ask()
    except hostd.HostError as failed:
        error = f"{type(failed).__name__}: {failed.message}"
    return what, sent_s, time.monotonic() - sent_s, error


if __name__ == "__main__":
    main()
