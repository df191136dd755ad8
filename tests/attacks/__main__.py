"""The attacker: `python -m attacks NAME TARGET SIZE`, with a target and a size ("small" or "full") as `rig` writes them.

Prints a line when it is under way, ends when its standard input does, and prints its report in JSON.
"""

import json
import os
import sys
from dataclasses import asdict

from attacks.attack import Cue, Report, Target
from attacks.catalogue import ATTACKS

NICENESS = 10
"""What an attacker computes itself would cost others a core, host or no host: that is the scheduler's to settle."""


def main():
    """Run the attack."""
    name, target, size = sys.argv[1:]
    attack, cue = ATTACKS[name], Cue()
    os.nice(NICENESS)
    try:
        sizes = attack.full if size == "full" and attack.full else attack.small
        report = attack.run(Target(**json.loads(target)), cue, **sizes)
    except OSError as error:  # the host has ended the connection, or has ended
        report = Report(told=f"{type(error).__name__}: {error}")
    cue.under_way()
    print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main()
