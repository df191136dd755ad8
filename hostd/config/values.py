"""How single values of settings are read: what counts as a number, a switch, a period, a size or a directory.

Strict: what is merely convertible is mostly a mistake. Text that means a value passes, because environment variables
are text. Every function raises ValueError. Without pydantic: the supervisor and plain starts do without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd import paths
from hostd.units import parse_size
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

AUTO = "auto"
NONE = "none"
OFF = "off"
_ALL_PERCENT = 100
PAGE_BYTES = 4096  # less is a number that lacks its unit
LOOPBACK = "127.0.0.1"
MAX_PORT = 65535
MAX_THREADS = 4096  # no machine has more cores; a larger number is a mistake


def number(value: object) -> object:
    """Return what may be a number."""
    # To pydantic true is 1; to whoever wrote it in place of a number it is a mistake.
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value!r}")  # noqa: TRY004 - pydantic takes only ValueError
    return value


def switch(value: object) -> object:
    """Return what may be true or false."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004 - as above
    return value


def period(value: object) -> object:
    """Return what may be seconds, where 0 and None (which becomes 0) mean that it does not happen."""
    return 0.0 if value is None else number(value)


def quiet_period(value: object) -> object:
    """Return as `period`, where a negative number becomes 0 too."""
    return 0.0 if isinstance(value, (int, float)) and value < 0 else period(value)


def directory(value: object) -> object:
    """Return what may be a path."""
    if value == "":
        raise ValueError(
            "must be a path; an empty one would be the working directory. Leave it out to have the default"
        )
    return value


def templates(value: object) -> object:
    """Return AUTO, OFF, or names of modules."""
    if value is False:  # YAML's own `off`
        return OFF
    words = value.split(",") if isinstance(value, str) else value  # an environment variable has a list so
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"must be {AUTO}, {OFF} or a list of modules, not {value!r}")
    names = tuple(word.strip() for word in words if word.strip())
    if len(names) == 1 and names[0] in (AUTO, OFF):
        return names[0]
    if wrong := [name for name in names if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"must be {AUTO}, {OFF} or a list of modules; {wrong[0]!r} is no name of a module")
    return names


def located(path: str | Path) -> Path:
    """Return a path in which `~` is a home directory, as `paths.expanded` does. Raises ValueError if there is none."""
    try:
        return paths.expanded(path)
    except HostError as error:
        raise ValueError(error.message) from None


def absolute(path: str | Path) -> Path:
    """Return a path as `located` does, from the root on."""
    return located(path).absolute()


def address(value: object) -> str:
    """Return "HOST:PORT" of an address to listen at; a port alone is one of this machine's loopback."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not port.isdecimal() or int(port) > MAX_PORT or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise ValueError(
            f"must be HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000, or a port of this machine alone, not {value!r}"
        )
    return f"{host or LOOPBACK}:{int(port)}"


def is_loopback(address: str) -> bool:
    """Say whether only programs of this machine reach an address."""
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def size(value: object) -> int:
    """Return the bytes of a number or of text with a unit."""
    try:
        return parse_size(value)
    except OverflowError:
        raise ValueError(f"{value!r} is too large") from None


def share(value: object) -> int | str:
    """Return bytes, or the text of a percentage above 0 and up to 100; `share_of` tells how much that is."""
    if isinstance(value, str) and value.strip().endswith("%"):
        share_of(value, 0)
        return value.strip()
    size_bytes = size(number(value))
    if size_bytes < PAGE_BYTES:
        raise ValueError(f"must be a percentage such as 80%, or at least {PAGE_BYTES} bytes, not {value!r}")
    return size_bytes


def budget(value: object) -> int | str:
    """Return as `share`, or "auto" or "none" (which None becomes)."""
    word = "none" if value is None else value.strip().lower() if isinstance(value, str) else ""
    if word in (AUTO, NONE):
        return word
    try:
        return share(value)
    except ValueError as error:
        raise ValueError(f"{error} (or auto, or none)") from None


def share_of(share: int | str, whole_bytes: int) -> int:
    """Return the bytes that a share is of a whole. Raises ValueError for what is no percentage."""
    if isinstance(share, int):
        return share
    try:
        percent = float(share.strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"{share!r} is no percentage: write a number before the %, such as 80%") from None
    if not 0 < percent <= _ALL_PERCENT:
        raise ValueError(f"a percentage must be above 0 and up to 100, not {share!r}")
    return int(whole_bytes * percent / _ALL_PERCENT)
