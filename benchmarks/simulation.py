"""The core against made-up histories, with a memory budget: `python -m benchmarks.simulation [--seeds N] [--steps N]`.

Each seed is one history of the world of `tests/core` (`play.long_game`): half of them with lazy loading, two thirds
with models and loads that grow. Asserted after every event: reserved plus measured never exceeds the budget (without
growth), nothing starts or grows on beyond it (with growth), no load is paused for ever, the
victims are exactly those of the dry run and no more than are needed, nothing is evicted that is pinned or busy, no
wake-up is lost; and at the end of every history, when all goes well, every caller is answered and nothing is left.

Ends with 1 and the seed on the first history that breaks a rule.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "core"

REPORT_EVERY_S = 10.0


def main() -> int:
    """Play, and print what was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    long_game = importlib.import_module("play").long_game  # the folder of the tests is no package

    reached: Counter[str] = Counter()
    began_s = told_s = time.monotonic()
    for number in range(arguments.seeds):
        seed = arguments.first_seed + number
        try:
            reached += long_game(seed, arguments.steps).reached
        except BaseException:
            print(f"seed {seed} broke a rule", file=sys.stderr)
            raise
        if time.monotonic() - told_s > REPORT_EVERY_S or number + 1 == arguments.seeds:
            told_s = time.monotonic()
            print(f"{number + 1} of {arguments.seeds} seeds, {told_s - began_s:.0f} s: {_said(reached)}", flush=True)
    print(f"{arguments.seeds} seeds x {arguments.steps} operations: no rule was broken")
    return 0


def _said(reached: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(reached.items()))


if __name__ == "__main__":
    sys.exit(main())
