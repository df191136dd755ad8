"""Plain values: what configuration, options and the wire can all carry.

Covers the check that a value from a file or a caller is one, with a message that leads to the part that is not.
"""

from __future__ import annotations

MAX_DEPTH = 32
"""Of settings; half of what a message to a worker may have."""


def check_plain(value: object, name: str, *, depth: int = MAX_DEPTH) -> None:
    """Raise ValueError, with the dotted name of the wrong part, unless `value` can go to a worker as it is.

    Plain are text, booleans, None, finite or infinite numbers, and lists and maps (with text as keys) of these.
    """
    if depth == 0:
        raise ValueError(f"{name} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} has the name {shown(key)}: put it in quotes")  # noqa: TRY004 - as documented
            check_plain(item, f"{name}.{key}", depth=depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_plain(item, f"{name}.{index}", depth=depth - 1)
    elif value is not None and not isinstance(value, (str, int, float)):
        what = "text, a number, true, false, null, a list or a map (a date goes in quotes)"
        raise ValueError(f"{name} must be {what}, got {shown(value)}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError(f"{name} must be a number of at most 64 bits; write it as text, got {shown(value)}")
    elif isinstance(value, str) and not value.isascii() and value != value.encode(errors="replace").decode():
        raise ValueError(f"{name} must be valid Unicode, which a lone surrogate is not, got {shown(value)}")


def shown(value: object) -> str:
    """Return a value and its type for an error, shortened."""
    # No container: it can be as long as the file.
    if isinstance(value, (str, int, float)):
        text = repr(value)
        return f"{text if len(text) < 80 else text[:77] + '...'} ({type(value).__name__})"
    return f"a {type(value).__name__}"
