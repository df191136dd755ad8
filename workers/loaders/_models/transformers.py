"""A pipeline as a model with methods: plain values in and out.

What a caller passes is data. Where a pipeline would take a string for the address or the name of a file to open, or an
argument for code to load, the call is refused: both are up to the model's owner.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from hostd_workers.loaders._common.opening import check_binding, first_lines, import_library
from hostd_workers.loaders._common.tensors import Tensors
from hostd_workers.wire.errors import InvalidArgumentError

EXTRA = "transformers"
_LOADS_CODE = {"custom_generate", "trust_remote_code"}
_SET_BY_US = {"assistant_model", "tokenizer", "model", "streamer", "stopping_criteria", "input_ids", "attention_mask"}
_OPENED = {"image", "images", "video", "videos", "audio", "audios", "url", "path", "mask_image", "raw"}
"""Keys under which pipelines take the name of a file or an address."""
_TAKES_TEXT = {"text-to-audio"}
"""Tasks of pipelines with a processor that take text all the same."""
_SURROUNDINGS = ("transformers.pipelines", "transformers.generation", "transformers.tokenization", "transformers.image")
"""Modules that check what callers pass; the rest of the library computes with it."""
_MAX_SHOWN_CHARS = 80


class PipelineModel:
    """A pipeline of transformers."""

    def __init__(self, torch: Any, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._tensors = Tensors(torch, pipeline.device)
        self._sees = getattr(pipeline, "image_processor", None) is not None
        parts = (getattr(pipeline, part, None) for part in ("feature_extractor", "video_processor", "processor"))
        self._opens_files = (self._sees or any(part is not None for part in parts)) and pipeline.task not in _TAKES_TEXT

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pipeline.task}, {type(self._pipeline.model).__name__})"

    def predict(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the pipeline returns, as plain values: numbers, text, lists, maps, and arrays for tensors.

        Text comes as a string or a list of them, an image as an array of uint8 (height, width, channels) or as the
        bytes of an image file, sound as an array, or a map with `array` and `sampling_rate`. Keywords are the
        pipeline's own, such as `top_k` or `max_new_tokens`.
        """
        check_binding(self._pipeline, args, kwargs, name="predict")
        checked = [self._input(value) for value in args[:1]] + [self._data(value) for value in args[1:]]
        keywords = {name: self._keyword(name, value) for name, value in kwargs.items()}
        try:
            result = self._pipeline(*checked, **keywords)
        except Exception as error:
            refusal = self.refusal(error, args[:1])
            if refusal is None:
                raise
            raise refusal from error
        return self._plain(result)

    def describe(self) -> dict[str, Any]:
        """Return the task, the model's class, its device, and its number of parameters."""
        model = self._pipeline.model
        return {
            "task": self._pipeline.task,
            "model": type(model).__name__,
            "device": str(self._pipeline.device),
            "parameters": sum(weight.numel() for weight in model.parameters()),
        }

    def refusal(self, error: BaseException, texts: Any, more_tokens: int = 0) -> InvalidArgumentError | None:
        """Return the error of a caller if its input made the library raise `error`; None if it is another's fault.

        `texts` is what was passed, `more_tokens` what was to be generated.
        """
        if is_about_input(error):
            return InvalidArgumentError(f"{self._pipeline.task} refused its input: {first_lines(error)}")
        limit = getattr(self._pipeline.model.config, "max_position_embeddings", None)
        if isinstance(error, (IndexError, RuntimeError)) and isinstance(limit, int):
            longest = max(map(self._length, _texts_in(texts)), default=0) + more_tokens
            if longest > limit:
                return InvalidArgumentError(f"the model takes {limit} tokens, and this would be {longest}: {error}")
        return None

    def _length(self, text: str) -> int:
        return len(self._pipeline.tokenizer(text)["input_ids"]) if self._pipeline.tokenizer is not None else 0

    def _input(self, value: Any) -> Any:
        if self._opens_files and isinstance(value, str):
            raise _opens(value)
        if self._opens_files and isinstance(value, (list, tuple)):
            return [self._input(item) for item in value]
        return self._data(value)

    def _keyword(self, name: str, value: Any) -> Any:
        if name in _SET_BY_US:
            raise InvalidArgumentError(f"a call cannot set {name!r}")
        return self._argument(name, value)

    def _argument(self, name: str, value: Any) -> Any:
        if name in _LOADS_CODE:
            raise InvalidArgumentError(f"a call cannot set {name!r}: what code is loaded is up to the model's owner")
        return self._input(value) if name in _OPENED else self._data(value)

    def _data(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._argument(str(name), item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._data(item) for item in value]
        return self._image(value) if self._sees else value

    def _image(self, value: Any) -> Any:
        if not isinstance(value, (bytes, np.ndarray)):
            return value
        images = import_library("PIL.Image", EXTRA)
        try:
            return images.open(io.BytesIO(value)) if isinstance(value, bytes) else images.fromarray(value)
        except (OSError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"an image is an array of uint8 or the bytes of an image file: {error}"
            ) from None

    def _plain(self, value: Any) -> Any:
        value = self._tensors.arrays(value)
        if isinstance(value, Mapping):
            return {name: self._plain(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item) for item in value]
        if isinstance(value, np.generic):
            return value.item()
        return (
            np.asarray(value) if hasattr(value, "__array_interface__") and not isinstance(value, np.ndarray) else value
        )


def is_about_input(error: BaseException) -> bool:
    """Say whether an error comes from the library's checks of what it was passed."""
    # Its checks raise TypeError and ValueError, its models whatever their operations raise.
    if not isinstance(error, (TypeError, ValueError)) and type(error).__name__ != "PipelineException":
        return False
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith(_SURROUNDINGS)


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [text for item in items for text in _texts_in(item)]


def _opens(value: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"this model opens no file or address for a caller, got {value[:_MAX_SHOWN_CHARS]!r}; send an image as an "
        "array or bytes, sound as an array"
    )
