"""What is used as a context, and closed at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

C = TypeVar("C", bound="Closing")


class Closing:
    """A context that is closed at its end."""

    def close(self) -> None:
        """Let go of what it holds."""

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
