"""A script with a host of its own: it loads a model, uses it, and gets the memory back.

    python -m hostd.examples.private_host

The host is a child of this process, and ends with it, however this process ends.
"""

from __future__ import annotations

from pathlib import Path

import hostd

MODEL = Path(__file__).parent / "greeter"


def main() -> None:
    """Load, call, stream, unload; print what each of them said."""
    with hostd.Host(memory={"budget": "1GiB"}) as host:
        client = host.client()
        greeter = client.load_model("greeter", MODEL)
        print(greeter.greet("Ada"))
        waiting = [greeter.submit.greet(name) for name in ("Grace", "Alan")]  # at the same time
        print(*(call.result() for call in waiting), sep="\n")
        report = client.unload_model("greeter")
        print(f"unloaded: {report.processes} process gave {report.freed_bytes} bytes back")


if __name__ == "__main__":
    main()
