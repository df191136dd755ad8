"""Requests of OpenAI's API: what of them a model is asked, and what is refused.

Covers JSON to arguments. Options that a model does not take are refused by the model itself; those that are about
OpenAI's own service are left out.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.json_text import parsed
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 1000
MAX_TEXTS: Final = 2048
"""Inputs of one request for embeddings, as OpenAI's own limit."""

_MAX_TOKENS: Final = ("max_completion_tokens", "max_tokens")
_OF_SERVICE: Final = frozenset(
    (
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
        "verbosity",
    )
)
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
"""What is not done here, and the values with which nothing is asked for."""


@dataclass(frozen=True)
class TextRequest:
    """A request for text: of `prompts` (texts, or lists of messages) with `options` for the model's method."""

    model: str
    prompts: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    wants_usage: bool = False
    max_tokens: int | None = None


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A request for embeddings of texts; `is_base64`: as the bytes of 32-bit floats."""

    model: str
    texts: tuple[str, ...]
    is_base64: bool = False


def parse_chat(body: bytes) -> TextRequest:
    """Return a request for the answer to a chat. Raises `InvalidArgumentError`."""
    request = _map(body)
    messages = request.pop("messages", None)
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise InvalidArgumentError("messages must be a list of maps with role and content, and not empty")
    return _text_request(request, ([_plain_message(message) for message in messages],))


def parse_completion(body: bytes) -> TextRequest:
    """Return a request for texts that go on from prompts. Raises as `parse_chat`."""
    request = _map(body)
    prompt = request.pop("prompt", None)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise InvalidArgumentError("prompt must be a text or a list of texts; tokens are not taken")
    if len(prompts) > 1 and request.get("stream"):
        raise InvalidArgumentError("a stream has one prompt")
    return _text_request(request, tuple(prompts))


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Return a request for embeddings. Raises `InvalidArgumentError`."""
    request = _map(body)
    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidArgumentError("input must be a text or a list of texts; tokens are not taken")
    if len(texts) > MAX_TEXTS:
        raise InvalidArgumentError(f"input has {len(texts)} texts; {MAX_TEXTS} are possible at a time")
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise InvalidArgumentError(f"encoding_format is float or base64, got {reprlib.repr(encoding)}")
    if request.get("dimensions") is not None:
        raise InvalidArgumentError("dimensions cannot be chosen: embeddings are as long as the model makes them")
    return EmbeddingsRequest(_model_of(request), tuple(texts), encoding == "base64")


def _text_request(request: dict[str, Any], prompts: tuple[Any, ...]) -> TextRequest:
    model, is_stream = _model_of(request), request.pop("stream", None) or False
    request.pop("model")
    if not isinstance(is_stream, bool):
        raise InvalidArgumentError(f"stream must be true or false, got {reprlib.repr(is_stream)}")
    stream_options = request.get("stream_options") or {}
    wants_usage = isinstance(stream_options, dict) and bool(stream_options.get("include_usage"))
    stops = _stops(request.pop("stop", None))
    limits = [request.pop(name, None) for name in _MAX_TOKENS]
    max_tokens = next((limit for limit in limits if limit is not None), None)
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise InvalidArgumentError(f"max_tokens must be a number from 1 on, got {reprlib.repr(max_tokens)}")
    options: dict[str, Any] = {} if max_tokens is None else {"max_new_tokens": max_tokens}
    for name, value in request.items():
        if value is None or name in _OF_SERVICE:
            continue
        if name in _NEUTRAL:
            _check_neutral(name, value)
        else:
            options[name] = value
    return TextRequest(model, prompts, options, stops, is_stream, wants_usage, max_tokens)


def _check_neutral(name: str, value: Any) -> None:
    if value not in _NEUTRAL[name]:
        raise InvalidArgumentError(f"{name} is not served here, got {reprlib.repr(value)}; leave it out")


def _map(body: bytes) -> dict[str, Any]:
    request = parsed(body, "the request")
    if not isinstance(request, dict):
        raise InvalidArgumentError("the request must be a JSON object")
    return request


def _model_of(request: Mapping[str, Any]) -> str:
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidArgumentError(f"model must be the id of a model, got {reprlib.repr(model)}")
    return model


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    is_list = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not is_list or not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise InvalidArgumentError(
            f"stop must be a text or a list of at most {MAX_STOPS} texts, of 1 to {MAX_STOP_CHARS} characters each"
        )
    return tuple(stops)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and message.get("content") is not None


def _plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is a text: clients may give it in parts, which are joined."""
    content = message["content"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise InvalidArgumentError("the content of a message is text here: no images, sounds or files")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InvalidArgumentError(f"the content of a message is text, got {type(content).__name__}")
    return {"role": message["role"], "content": content}
