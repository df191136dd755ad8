"""What models and their files may be called.

An id is one or more segments joined by "/" (`team/model`). It may become a path below the models directory, a label of
a metric and a file name of a log, so it is refused unless it is harmless as all three, and unless it looks like what it
is. A file's name is a relative path below its model's directory. It keeps the freedom that files have (a leading dot,
decomposed letters) as long as it stays where it belongs on any file system.

Covers the text alone: links and what else is on the disk are the shell's business (`shell/repository/directory.py`).
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from hostd.core.values import ModelId
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STAGING_NAME = ".hostd-staging"
"""Where files wait in a models directory on their way in and out; no id and no file may be called so."""

KEPT_NAME = ".hostd-deploy.json"
"""Beside a deployed model's files: what it was deployed with. No file of a deploy may be called so, or begin so."""

MAX_ID_BYTES = 512
MAX_SEGMENT_BYTES = 200
"""A file name may have 255 bytes; a log adds a suffix and an escape for the slash."""

MAX_FILE_BYTES = 1024
"""Of a file's name with its folders: below PATH_MAX (4096) with an id, and the models directory's path before it."""
MAX_FILE_SEGMENT_BYTES = 255
"""NAME_MAX of Linux' file systems."""
MAX_FILE_SEGMENTS = 32
MAX_FILES = 10_000
"""Of one deploy. Each costs a file, an fsync and a few hundred bytes in the host; big models have hundreds."""

_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode's categories of control, format, surrogate, private, unassigned and separating characters."""

_SLASHES = frozenset(
    "\u1735\u2041\u2044\u2215\u2571\u29f8\u3033\u31d3\U0001d23a"  # like /
    "\u20e5\u2216\u2572\u29f5\u29f9\u31d4\U0001d20f\U0001d23b"  # like \
)
"""What looks like a slash and stays itself under NFKC (from Unicode's confusables.txt, without letters of words)."""

_DOTS = frozenset(".\u00b7\u0387\u06d4\u0701\u0702\u2024\u2027\u2219\u22c5\u30fb\ua4f8\ua60e\U00010a50")
"""What looks like a dot. Most are letters or marks of some script, so only a segment of nothing else is bad."""


def model_id_of(value: object) -> ModelId:
    """Return the id, checked. Raises `InvalidArgumentError` that says what is wrong with it."""
    return ModelId(_checked(value, "a model id", _problem_of_id))


def file_name_of(value: object) -> str:
    """Return the name of a model's file, checked. Raises `InvalidArgumentError` that says what is wrong with it."""
    return _checked(value, "the name of a file", _problem_of_file)


def check_files(names: Sequence[object], empty: Sequence[object] = ()) -> None:
    """Refuse names that cannot together be the files of one model. Raises `InvalidArgumentError`.

    `empty` are the names of folders without files.

    Names that differ in case only are two files: so they are on Linux' file systems, and on one that folds case the
    second is refused when it is made, because no file of a deploy is made twice. One file that is not hidden must lie
    directly in the model's directory: without one it is a folder of nested models (`team` of `team/model`), which an
    undeploy leaves alone.
    """
    if not names:
        raise InvalidArgumentError("a deploy needs at least one file, and none was given")
    if len(names) + len(empty) > MAX_FILES:
        given = f"{len(names)} and {len(empty)} empty folders" if empty else len(names)
        raise InvalidArgumentError(f"a deploy may have {MAX_FILES} files, and {given} were given")
    files: set[str] = set()
    folders: set[str] = set()
    for name in map(file_name_of, names):
        if name in files:
            raise InvalidArgumentError(f"{_shown(name)} is given twice")
        files.add(name)
        folders.update(folders_of(name))
    for name in map(file_name_of, empty):
        folders.update((*folders_of(name), name))
    both = min(files & folders, default=None)
    if both is not None:
        raise InvalidArgumentError(f"{_shown(both)} is given as a file, and as the folder of another file")
    if all("/" in name or name.startswith(".") for name in files):
        raise InvalidArgumentError(
            "all files are in folders or hidden, as if this were a folder of nested models; put at least one file (a "
            "model.yaml, say) directly into the model's directory, or deploy each folder as a model of its own"
        )


def folders_of(name: str) -> list[str]:
    """Return the folders above a name or an id, outermost first: `a` and `a/b` of `a/b/c`."""
    segments = name.split("/")
    return ["/".join(segments[:count]) for count in range(1, len(segments))]


def _checked(value: object, what: str, problem_of: Callable[[str], str | None]) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{what} must be a string, got {type(value).__name__}")
    problem = problem_of(value)
    if problem:
        raise InvalidArgumentError(f"{_shown(value)} cannot be {what}: {problem}")
    return value


def _shown(value: str) -> str:
    return repr(value[:100])


def _problem_of_id(value: str) -> str | None:
    problem = _problem_of_text(value, MAX_ID_BYTES)
    if problem:
        return problem
    if value != unicodedata.normalize("NFKC", value):
        return "it has characters that only look like others; write it in normalised form (NFKC)"
    return next(filter(None, map(_problem_of_id_segment, value.split("/"))), None)


def _problem_of_file(value: str) -> str | None:
    problem = _problem_of_text(value, MAX_FILE_BYTES)
    if problem:
        return problem
    segments = value.split("/")
    if segments[0].casefold().startswith(KEPT_NAME):
        return f"{KEPT_NAME} is the host's own: it keeps there what the model is deployed with; leave it out"
    if len(segments) > MAX_FILE_SEGMENTS:
        return f"it is {len(segments)} folders deep, at most {MAX_FILE_SEGMENTS} are allowed"
    return next(filter(None, map(_problem_of_file_segment, segments)), None)


def _problem_of_text(value: str, max_bytes: int) -> str | None:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if not value.strip():
        return "it is empty"
    if len(encoded) > max_bytes:
        return f"it has {len(encoded)} bytes, at most {max_bytes} are allowed"
    if any(unicodedata.category(c) in _INVISIBLE for c in value):
        return "it has control characters"
    if not _SLASHES.isdisjoint(value) or any(_becomes_a_separator(c) for c in value if not c.isascii()):
        return "it has a character that looks like a slash, a backslash or a dot"
    return None


def _becomes_a_separator(character: str) -> bool:
    return not {"/", "\\", "."}.isdisjoint(unicodedata.normalize("NFKC", character))


def _problem_of_id_segment(segment: str) -> str | None:
    if not segment:
        return "it has an empty segment: it may not begin or end with / or have two in a row"
    if segment != segment.strip():
        return "a segment begins or ends with white space"
    if segment.startswith("."):
        return "a segment begins with a dot; such names are hidden or mean a parent directory"
    return _problem_of_segment(segment, MAX_SEGMENT_BYTES)


def _problem_of_file_segment(segment: str) -> str | None:
    if not segment:
        return "it has an empty segment: it may not begin or end with / or have two in a row"
    if segment in {".", ".."}:
        return f"{segment} is no name of a file or folder; give the path below the model's directory"
    if segment != segment.rstrip():
        return "a segment ends with white space"
    # Not below it either: a tree that holds such a name must not be taken for a staging area when it is looked through.
    if segment.casefold() == STAGING_NAME:
        return f"{STAGING_NAME} is the host's own"
    return _problem_of_segment(segment, MAX_FILE_SEGMENT_BYTES)


def _problem_of_segment(segment: str, max_bytes: int) -> str | None:
    if "\\" in segment:
        return "it has a backslash; separate segments with /"
    if segment.endswith("."):
        return "a segment ends with a dot, which some file systems drop"
    if _DOTS.issuperset(segment):
        return "a segment has only characters that look like dots"
    if len(segment.encode()) > max_bytes:
        return f"a segment has more than {max_bytes} bytes"
    return None
