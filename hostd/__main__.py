"""`python -m hostd` is the `hostd` command.

Python puts the current directory first on the path then, unless it is told not to (`-P`, `-I`). What lies there is the
caller's and none of ours: a `queue.py` would be executed. The few modules that Python itself needs to find this one,
and those that `import hostd` needs, are imported before; the command `hostd` has no such gap.
"""

import sys
from contextlib import suppress
from pathlib import Path

with suppress(FileNotFoundError):  # the current directory is gone, and is not on the path then
    if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False) and sys.path[0] == str(Path.cwd()):
        del sys.path[0]

from hostd.cli import main

if __name__ == "__main__":
    main()
