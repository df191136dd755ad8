"""Whether what a finder of others has made is a specification; imported when there is such a finder, for pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Final

import pydantic
from pydantic import AfterValidator, TypeAdapter, ValidationError

from hostd.config.spec import ModelSpec
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import HostError


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encode(value)
    except HostError as error:
        raise ValueError(f"must be values that a worker can be sent: {error.message}") from None
    return value


_Keywords = Annotated[dict[str, Any], AfterValidator(_sendable)]


def _adapter() -> TypeAdapter[ModelSpec]:
    # The class names these without importing them; pydantic looks for them among the variables of who calls it.
    Field, Strict, Keywords = pydantic.Field, pydantic.Strict, _Keywords  # noqa: N806, F841
    return TypeAdapter(ModelSpec)


_SPEC: Final = _adapter()


def check(spec: ModelSpec, finder: object) -> None:
    """Raise TypeError, with the name of the part, if a specification has a wrong one."""
    try:
        _SPEC.validate_python(spec)
    except ValidationError as error:
        found = error.errors()[0]
        raise TypeError(
            f"{type(finder).__name__}.find returned a ModelSpec with a wrong {found['loc'][0]}: {found['msg']}, "
            f"got {found['input']!r:.200}"
        ) from None
