"""Generate the twins of `hostd/client/_sync` from `hostd/client/_async`, or `--check` that they are current.

Line by line, by the table below. What differs otherwise is said in the source:

    # async only          above a statement, or at the end of a line: it is left out
    ...  # sync: text     the text is there in place of the line

Formatting and what became unused are left to ruff.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "hostd" / "client"
TWINS = ("client", "deploys", "model", "streams", "watching")
HEADER = "# Generated from hostd/client/_async/{}.py by .ci/unasync.py: edit that one.\n"

REPLACEMENTS = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"^( *).*# sync: (.*)", r"\1\2"),
        (r"^import asyncio$", "import time"),
        (r"\bawait asyncio\.to_thread\(([\w.]+)(?:, )?", r"\1("),
        (r"\basyncio\.sleep\b", "time.sleep"),
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\bAwaitable\[(\w+)\]", r"\1"),
        (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
        (r"\baclose\b", "close"),
        (r"\b_async\b", "_sync"),
        (r"\bAsyncChannels\b", "Channel"),
        (r"(?<=\.)_?channels\b", lambda found: found[0][:-1]),
        (r"\bmake a hostd\.AsyncClient\(endpoint\)", "call hostd.connect(endpoint)"),
        (r"Async(?=[A-Z])", ""),
        (r"\ban asynchronous context\b", "a context"),
        (r"\bevent loops\b", "threads"),
        (r"\bthe iteration begins\b", "this returns"),
    )
]


def twin(name: str) -> str:
    """Return the source of the synchronous module of this name."""
    source = (CLIENT / "_async" / f"{name}.py").read_text("utf-8")
    lines = source.splitlines()
    left_out = {number for number, line in enumerate(lines, 1) if line.endswith("  # async only")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
            if lines[first - 2].strip() == "# async only":
                left_out.update(range(first - 1, (node.end_lineno or first) + 2))  # with the empty line after it
    kept = [line for number, line in enumerate(lines, 1) if number not in left_out]
    for pattern, text in REPLACEMENTS:
        kept = [pattern.sub(text, line) for line in kept]
    made = HEADER.format(name) + "\n".join(kept) + "\n"
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401,F811"], ["format", "--quiet"]):
        made = ruff(made, *command, "--stdin-filename", str(CLIENT / "_sync" / f"{name}.py"), "-")
    return made


def ruff(source: str, *command: str) -> str:
    """Return the source as ruff leaves it."""
    ruff = [sys.executable, "-m", "ruff", *command]
    return subprocess.run(ruff, input=source, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Write the twins, or with `--check` end with an error that names those that differ."""
    made = {CLIENT / "_sync" / f"{name}.py": twin(name) for name in TWINS}
    stale = [path for path, source in made.items() if not path.exists() or path.read_text("utf-8") != source]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(CLIENT.parents[1])) for path in stale)
            sys.exit(f"not what its source in hostd/client/_async makes: {names}; run .ci/unasync.py")
        return
    for path in stale:
        path.write_text(made[path], "utf-8")


if __name__ == "__main__":
    main()
