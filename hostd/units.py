"""Sizes and durations as people write and read them.

Covers parsing of sizes with units and the short forms that tables and messages show, counts with
their nouns among them. Does not cover instants: those are
unix seconds everywhere, and the command line turns them into ages.
"""

from __future__ import annotations

import re

from hostd_workers.wire.light import pattern

_SIZE = pattern(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
# A bare K, M or G is refused: half the tools of this field mean 1000 by it and the other half 1024.
_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_size(text: object) -> int:
    """Return the bytes that `text` means: a whole number, or a number with a unit such as "400MB" or "2GiB".

    Raises ValueError for anything else, with the units that are known.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write bytes or a unit, such as 400MB, 2GiB, 64KiB")
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def format_size(size_bytes: float | None) -> str:
    """Return a size for a person, such as "312 MiB"; "-" for None."""
    if size_bytes is None:
        return "-"
    sign = "-" if size_bytes < 0 else ""
    value, units = float(abs(size_bytes)), ("B", "KiB", "MiB", "GiB", "TiB")
    unit = units[0]
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1024
    digits = 1 if value < 9.95 and unit != "B" else 0
    return f"{sign}{value:.{digits}f} {unit}"


def format_size_short(size_bytes: float | None) -> str:
    """Return a size in at most five characters for a narrow column, as `free -h` writes it: "312Mi", "1.2Gi"."""
    return format_size(size_bytes).replace(" ", "").removesuffix("B")


def format_duration(duration_s: float | None) -> str:
    """Return a duration for a person, such as "35 us", "0.8 ms", "1.24 s", "3m 12s" or "2d 4h"; "-" for None."""
    if duration_s is None:
        return "-"
    if 0 < duration_s < 0.00095:
        return f"{duration_s * 1e6:.0f} us"
    if duration_s < 1:
        return f"{duration_s * 1e3:.{1 if duration_s < 0.01 else 0}f} ms"
    if duration_s < 59.95:
        return f"{duration_s:.2f} s" if duration_s < 10 else f"{duration_s:.1f} s"
    seconds = round(duration_s)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds % 60}s"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 model", "3 models", "no models"."""
    return f"{count or 'no'} {noun if count == 1 else plural or f'{noun}s'}"


def format_age(age_s: float | None) -> str:
    """Return an age in at most four characters for a narrow column, such as "12s", "5m", "3h" or "2d"; "-" for None."""
    if age_s is None:
        return "-"
    seconds = max(0, int(age_s))
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"
