"""Uses an installed hostd without the checkout, as a newcomer does: stranger.py MODELS.

Run with the interpreter of the environment that it is installed in. In each of several directories: demo, doctor,
serve, and for each model load, call and unload; then shutdown, and no socket may be left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOSTD = Path(sys.executable).with_name("hostd")
NOT_OURS = "raise SystemExit(f'{__name__} was imported from the directory of the caller')\n"
SURROUNDINGS = {
    "nothing": (),
    "packages of the user's": ("workers/__init__.py", "tests/__init__.py", "benchmarks/__init__.py"),
    "modules named as the standard library's": ("queue.py", "logging.py", "random.py", "zmq/__init__.py"),
}
PATIENCE_S = 120
EMBEDS = """
import sys
import hostd

if __name__ == "__main__":
    with hostd.Host() as host:
        print(host.client().load_model("m", sys.argv[1]).predict([[1.0, 2.0]]))
"""


def main(models: Path) -> None:
    """Try everything everywhere; the first thing that does not work ends it."""
    calls = json.loads((models / "calls.json").read_text("utf-8"))
    for title, names in SURROUNDINGS.items():
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="h-") as here, tempfile.TemporaryDirectory(prefix="h-") as places:
            for name in names:
                file = Path(here, name)
                file.parent.mkdir(exist_ok=True)
                file.write_text(NOT_OURS, "utf-8")
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith(("HOSTD_", "PYTHON"))},
                "XDG_RUNTIME_DIR": f"{places}/run",
                "XDG_STATE_HOME": f"{places}/state",
            }
            Path(places, "run").mkdir(mode=0o700)
            _use(Directory(here, environment), Path(places), models, calls)
        print(f"in a directory with {title}: works ({time.monotonic() - began_s:.0f} s)", flush=True)


class Directory:
    """Where commands are run, and with which environment."""

    def __init__(self, path: str, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = environment

    def run(self, *command: object) -> str:
        """Run a command that must succeed, and return what it prints."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def _use(directory: Directory, places: Path, models: Path, calls: dict[str, Any]) -> None:
    directory.run(HOSTD, "demo")
    directory.run(HOSTD, "doctor")
    (places / "program.py").write_text(EMBEDS, "utf-8")
    directory.run(sys.executable, places / "program.py", models / "python")
    serve = [HOSTD, "serve", "--log-level", "warning"]
    with subprocess.Popen(serve, cwd=directory.path, env=directory.environment, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        try:
            line = host.stdout.readline()
            assert b"ready" in line, line
            for model, argument in calls.items():
                directory.run(HOSTD, "load", model, models / model)
                answer = directory.run(HOSTD, "infer", model, "--method", "predict", json.dumps(argument), "--json")
                assert json.loads(answer), answer
                directory.run(HOSTD, "unload", model)
            directory.run(HOSTD, "shutdown")
        finally:
            host.terminate()
    left = [name for name in Path(places, "run").rglob("*") if name.is_socket()]
    assert not left, left


if __name__ == "__main__":
    main(Path(sys.argv[1]))
