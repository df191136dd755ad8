"""The host that is attacked, in a program of its own, so that its limits are not ours: `python -m attacks.host SETTINGS`.

`SETTINGS` is JSON: the sections of a `hostd.Host`, and `open_files`, its limit of descriptors, or null. Prints one line
of JSON when it is ready, and ends when its standard input does.
"""

import json
import resource
import sys

import hostd


def main():
    """Start the host and wait."""
    settings = json.loads(sys.argv[1])
    open_files = settings.pop("open_files")
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    with hostd.Host(**settings) as host:
        with host.client() as client:
            info = client.host_info()
        print(json.dumps({key: getattr(info, key) for key in ("pid", "endpoint", "runtime_dir", "metrics_port")}))
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
