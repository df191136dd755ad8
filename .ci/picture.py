"""Makes the picture of the README from a real session: picture.py [FILE], in the environment of the README's demo.

A shell runs the commands of `SESSION`, and the picture has their standard output as it is; only the temporary directory
is shown as /srv. Each command appears after the one before. A viewer without animations shows all of them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

import hostd
from hostd.cli.demo import models

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "hostd" / "docs" / "session.svg"
COLUMNS = 100
PAUSE_S = 1.5
SESSION = (
    "hostd load greeter models/greeter",
    "hostd load writer models/writer",
    "hostd infer greeter --method greet '\"Ada\"'",
    "hostd ps",
    "kill -9 {pid}  # one model crashes",
    "hostd ls",
    "hostd unload writer",
)


def main(picture: Path) -> None:
    """Run the session in a host and a directory of its own, and write the picture."""
    with tempfile.TemporaryDirectory(prefix="hostd-") as place:
        _make_models(Path(place, "models"))
        with hostd.Host() as host:
            client = host.client()
            events = client.events("greeter")
            shown = []
            for command in SESSION:
                line = command.format(pid=_pid_of("greeter", client)) if "{pid}" in command else command
                shown.append((line, _run(line, place, host.endpoint)))
                if command.startswith("kill"):
                    next(event for event in events if event.new == "FAILED")
    picture.write_text(_drawn(shown), "utf-8")


def _make_models(folder: Path) -> None:
    folder.mkdir()
    models.write_babbler(folder).rename(folder / "writer")
    shutil.copytree(ROOT / "hostd" / "examples" / "greeter", folder / "greeter")


def _pid_of(model_id: str, client: hostd.Client) -> int:
    (worker,) = client.get_model(model_id).workers
    return worker.pid


def _run(line: str, directory: str, endpoint: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOSTD_ENDPOINT": endpoint,
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.replace(directory, "/srv")


def _drawn(shown: list[tuple[str, str]]) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    begins = []
    line_count = 0
    for command, output in shown:
        begins.append(line_count)
        text = Text.assemble(("$ ", "dim"), (command, "bold cyan"), "\n", Text.from_ansi(output))
        line_count += len(text.wrap(console, COLUMNS))
        console.print(text)
    # Without the font that it would fetch: a picture in a page may fetch nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="hostd", unique_id="t"), flags=re.DOTALL)
    return svg.replace("</style>", _animation(begins, line_count) + "</style>", 1)


def _animation(begins: list[int], line_count: int) -> str:
    """Return the style by which the lines of each command appear together."""
    rules = ["@keyframes appear { from { opacity: 0 } }"]
    for index, (begin, end) in enumerate(zip(begins, [*begins[1:], line_count], strict=True)):
        lines = ", ".join(f'text[clip-path="url(#t-line-{line})"]' for line in range(begin, end))
        rules.append(f"{lines} {{ animation: appear 0.2s {index * PAUSE_S}s both }}")
    return "\n".join(["@media (prefers-reduced-motion: no-preference) {", *rules, "}", ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
