"""A listener of clients and one of workers in a process that may open few descriptors; what it hears it sends back.

Usage: `scarce_host.py DIRECTORY DESCRIPTORS`. A client's message `exhaust` has it open all that are left, `free` close
them again, `gone` is answered with how many connections have ended.
"""

import logging
import os
import resource
import sys
from pathlib import Path

from transport_rig import Heard, Transport


def main(directory, most):
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    taken = []
    clients, workers = Heard(), Heard(is_trusted=True)

    def on_client(identity, frames):
        what = bytes(frames[0])
        if what == b"exhaust":
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
        elif what == b"free":
            while taken:
                os.close(taken.pop())
        elif what == b"gone":
            what = b"%d" % len(clients.gone)
        clients.listener.send(identity, [what])

    clients.on_message = on_client
    with Transport(Path(directory)) as transport:
        transport.hear(clients, "clients")
        workers.on_message = transport.hear(workers, "workers").send
        sys.stdout.write("up\n")
        sys.stdout.flush()
        transport.loop.run_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
