"""Text generation as a stream: a pipeline whose text can be had while it is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from workers.loaders._opening import first_lines
from workers.loaders._transformers_model import PipelineModel
from workers.wire.errors import InvalidArgumentError


class GeneratingModel(PipelineModel):
    """A pipeline for text generation, whose text can be had while it is made."""

    def __init__(self, torch: Any, transformers: Any, pipeline: Any) -> None:
        super().__init__(torch, pipeline)
        self._transformers = transformers

    def generate(self, prompt: Any, /, **kwargs: Any) -> Iterator[str]:
        """Yield the text that follows a prompt, a few characters at a time, as the model makes it.

        The prompt is a string, or a list of messages (`{"role": …, "content": …}`) for a model with a chat template.
        Keywords are those of the library's generate, such as `max_new_tokens`, `do_sample` or `temperature`; what is
        left out is as for `predict`.
        """
        arguments = {name: self._keyword(name, value) for name, value in kwargs.items()}
        inputs = self._tokens(prompt)
        streamer = self._transformers.TextIteratorStreamer(
            self._pipeline.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        # The pipeline's own, so that what is left out is the same as for predict.
        defaults = {"generation_config": getattr(self._pipeline, "generation_config", None)}
        run = _Run(self._pipeline.model, streamer, {**defaults, **inputs, **arguments})
        with run:
            while (text := run.next_text()) is not None:
                if text:
                    yield text
        if run.error is not None:
            wanted = arguments.get("max_new_tokens")
            more_tokens = wanted if isinstance(wanted, int) else 0
            refusal = self.refusal(run.error, prompt, more_tokens)
            raise refusal or run.error from (run.error if refusal else None)

    def _tokens(self, prompt: Any) -> dict[str, Any]:
        tokenizer = self._pipeline.tokenizer
        is_chat = isinstance(prompt, (list, tuple)) and prompt and all(isinstance(part, Mapping) for part in prompt)
        if not isinstance(prompt, str) and not is_chat:
            raise InvalidArgumentError(
                f"a prompt is a string or a list of messages with role and content, got {type(prompt).__name__}"
            )
        try:
            if is_chat:
                encoded = tokenizer.apply_chat_template(
                    list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
            else:
                encoded = tokenizer(prompt, return_tensors="pt")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgumentError(f"the tokenizer refused the prompt: {first_lines(error)}") from error
        except Exception as error:
            if not type(error).__module__.startswith("jinja2"):  # a chat template is a Jinja template
                raise
            raise InvalidArgumentError(f"the chat template refused the messages: {first_lines(error)}") from error
        if not encoded["input_ids"].numel():
            raise InvalidArgumentError("the prompt has no tokens; pass a text that is not empty")
        return {name: encoded[name].to(self._pipeline.device) for name in ("input_ids", "attention_mask")}


class _Run:
    """One generation, in a thread that makes at most one token more than were asked for, and ends with the block.

    So a slow reader holds the text back, not the memory, and while nobody reads other calls have the processor.
    """

    def __init__(self, model: Any, streamer: Any, arguments: dict[str, Any]) -> None:
        self.error: BaseException | None = None
        self._model = model
        self._streamer = streamer
        self._arguments = arguments
        self._is_over = False
        self._may_go_on = threading.Event()
        self._thread = threading.Thread(target=self._generate, name="generate", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        self._is_over = True
        self._may_go_on.set()
        self._thread.join()

    def next_text(self) -> str | None:
        """Return the next piece of text, which may be empty; None at the end."""
        self._may_go_on.set()
        text: str | None = next(self._streamer, None)
        self._may_go_on.clear()
        return text

    def _generate(self) -> None:
        try:
            self._model.generate(**self._arguments, streamer=self._streamer, stopping_criteria=[self._must_stop])
        except BaseException as error:  # noqa: BLE001 - it is raised again where the text is read
            self.error = error
        finally:
            self._streamer.end()

    def _must_stop(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - the library's shape
        self._may_go_on.wait()
        # One answer for each sequence of the batch.
        return input_ids.new_full((input_ids.shape[0],), self._is_over).bool()
