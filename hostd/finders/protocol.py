"""What a finder is, how one is asked, and how it looks at a disk."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

from hostd.config.model_yaml import ModelSpec
from hostd.places import why_forbidden, why_missing
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Finder(Protocol):
    """Recognises models.

    Made once, when the host starts, and called in several threads of it, for each load and for each new entry of the
    models directory: it may look at a disk, but must not hang.
    """

    @property
    def looks_for(self) -> str:
        """What it recognises, for the error that says it was not there."""
        ...

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:
        """Return what to load, or None if this is nothing that it knows.

        Raises a `HostError` for a model that it knows and that is wrong, and NotFoundError if nothing is at `path`.
        """
        ...


def ask(finder: Finder, model_id: str, path: str | None) -> ModelSpec | None:
    """Return what a finder finds. Raises what it raises, and TypeError if that is no specification."""
    spec: object = finder.find(model_id, path)
    if spec is None:
        return None
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"{type(finder).__name__}.find must return a ModelSpec or None, got {spec!r:.200}")
    for name, (is_right, wanted) in _FIELDS.items():
        value = getattr(spec, name)
        if not is_right(value):
            raise TypeError(
                f"{type(finder).__name__}.find returned a ModelSpec whose {name} must be {wanted}, got {value!r:.200}"
            )
    return spec


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object, least: float = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_duration(value: object) -> bool:
    return isinstance(value, float) or _is_size(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _are_names(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value)


def _are_keywords(value: object) -> bool:
    """Say whether a worker can be told these keywords."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    try:
        encode(value)
    except HostError:
        return False
    return True


def _or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


_FIELDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "loader": (_is_text, "a text"),
    "options": (_are_keywords, "a dict of values that can be sent, by name"),
    "python": (_or_none(_is_text), "a path or None"),
    "env": (_are_texts, "a dict of texts by name"),
    "methods": (_or_none(_are_names), "a tuple of names or None"),
    "default_method": (_or_none(_is_text), "a name or None"),
    "initializer": (_or_none(_is_text), "a name or None"),
    "initializer_config": (_are_keywords, "a dict of values that can be sent, by name"),
    "size_bytes": (_or_none(_is_size), "a number of bytes or None"),
    "memory_limit_bytes": (_or_none(lambda value: _is_size(value, least=1)), "a number of bytes or None"),
    "evictable": (lambda value: isinstance(value, bool), "True or False"),
    "idle_ttl_s": (_or_none(_is_duration), "a number of seconds or None"),
    "cpu_threads": (_or_none(lambda value: _is_size(value, least=1)), "a number of threads or None"),
    "origins": (_are_texts, "a dict of texts by name"),
}
"""What each field of a specification must be: what is wrong would be noticed on the loop, where nobody waits for it."""


@contextlib.contextmanager
def looking_at(path: str) -> Iterator[None]:
    """Turn what the system says about a path into typed errors: NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT.

    Nothing is at a relative path: the working directory of the host is nobody's business.
    """
    if not os.path.isabs(path):  # noqa: PTH117 - an empty string must stay distinguishable from "."
        raise NotFoundError(f"there is nothing at {path}: a path must be absolute", details={"path": path})
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"there is nothing at {path}: {why_missing(path)}", details={"path": path}) from error
    except PermissionError as error:
        raise FailedPreconditionError(
            f"cannot look at {path}: {why_forbidden(path)}", details={"path": path}
        ) from error
    except OSError as error:
        raise FailedPreconditionError(f"cannot look at {path!r}: {error}", details={"path": path}) from error
    except ValueError as error:  # a null byte
        raise InvalidArgumentError(f"cannot look at {path!r}: {error}", details={"path": path}) from error
