"""Answers of OpenAI's API, as JSON: whole, in chunks, and errors. Of tokens only what a model has counted is told."""

from __future__ import annotations

import base64
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hostd.fronts.errors import body_of
from hostd_workers.wire.errors import Status, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hostd import HostError

DONE: Final = b"data: [DONE]\n\n"

_TYPES: Final[Mapping[Status, str]] = {
    Status.INVALID_ARGUMENT: "invalid_request_error",
    Status.UNIMPLEMENTED: "invalid_request_error",
    Status.NOT_FOUND: "invalid_request_error",
    Status.UNAUTHENTICATED: "authentication_error",
    Status.PERMISSION_DENIED: "permission_error",
    Status.RESOURCE_EXHAUSTED: "rate_limit_error",
}


@dataclass(frozen=True)
class Usage:
    """How many tokens a prompt and an answer have, as the model counts them."""

    prompt: int
    answer: int

    def to_dict(self) -> dict[str, int]:
        """Return it as OpenAI names it."""
        total = self.prompt + self.answer
        return {"prompt_tokens": self.prompt, "completion_tokens": self.answer, "total_tokens": total}


@dataclass(frozen=True)
class Frame:
    """What all parts of an answer have in common; `is_chat`: else it is a completion."""

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created_s: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[tuple[str, str]], usage: Usage | None) -> dict[str, Any]:
        """Return the answer that has these texts, each with why it ends."""
        choices = [
            {"index": place, **self._content(text), "finish_reason": reason, "logprobs": None}
            for place, (text, reason) in enumerate(texts)
        ]
        return {**self._head("chat.completion" if self.is_chat else "text_completion"), **_with(choices, usage)}

    def chunk(self, text: str = "", reason: str | None = None, *, is_first: bool = False) -> dict[str, Any]:
        """Return a piece of an answer; the last one has a reason and no text."""
        if self.is_chat:
            role = {"role": "assistant"} if is_first else {}
            content = {"content": text} if text or is_first else {}
            choice: dict[str, Any] = {"index": 0, "delta": {**role, **content}}
        else:
            choice = {"index": 0, "text": text}
        choices = [{**choice, "finish_reason": reason, "logprobs": None}]
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), "choices": choices}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the piece that says what was used."""
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), **_with([], usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.is_chat else "cmpl-"
        return {"id": f"{prefix}{self.id}", "object": kind, "created": self.created_s, "model": self.model}

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}


def _with(choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
    return {"choices": choices} if usage is None else {"choices": choices, "usage": usage.to_dict()}


def embeddings(model: str, rows: object, count: int, tokens: int | None, *, is_base64: bool) -> dict[str, Any]:
    """Return the answer with a row of numbers for each of `count` texts.

    Raises `UnimplementedError` for anything else that a model has returned.
    """
    try:
        table = np.asarray(rows, "<f4")
    except (ValueError, TypeError):
        table = np.empty(0)
    if table.ndim != 2 or len(table) != count:
        raise UnimplementedError(
            f"embed of model {model!r} must return a row of numbers for each text: an array of shape ({count}, n)"
        )
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": base64.b64encode(row.tobytes()).decode() if is_base64 else row.tolist(),
        }
        for place, row in enumerate(table)
    ]
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return {"object": "list", "model": model, "data": data, **usage}


def failure(error: HostError) -> dict[str, Any]:
    """Return the body of an error: what OpenAI's clients read, and what our own do."""
    body = body_of(error)
    kind = _TYPES.get(error.status, "server_error")
    return {"error": {**body, "message": body["error"], "type": kind, "param": None, "code": body["status"].lower()}}
