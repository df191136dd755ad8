"""Text generation as a stream: a pipeline that gives its text while it is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hostd_workers.loaders._common.opening import first_lines
from hostd_workers.loaders._models.transformers import PipelineModel
from hostd_workers.wire.errors import InvalidArgumentError


class GeneratingModel(PipelineModel):
    """A pipeline for text generation that gives its text while it is made."""

    def __init__(self, torch: Any, transformers: Any, pipeline: Any) -> None:
        super().__init__(torch, pipeline)
        self._transformers = transformers

    def generate(self, prompt: Any, /, **kwargs: Any) -> Iterator[str]:
        """Yield the text that follows a prompt, a word or so at a time, as the model makes it.

        The prompt is a string, or a list of messages (`{"role": …, "content": …}`) for a model with a chat template.
        Keywords are the pipeline's own, such as `max_new_tokens`, `do_sample` or `temperature`, and what is left out is
        as for `predict`. A `temperature` alone samples, one of 0 takes the likeliest token; `seed` makes it repeatable.
        """
        self._check(prompt)
        arguments = {name: self._keyword(name, value) for name, value in self._sampling(kwargs).items()}
        streamer = self._transformers.TextIteratorStreamer(
            self._pipeline.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        run = _Run(lambda **ours: self._pipeline(self._data(prompt), **arguments, **ours), streamer)
        with run:
            while (text := run.next_text()) is not None:
                if text:
                    yield text
        if run.error is not None:
            wanted = arguments.get("max_new_tokens")
            refusal = self._generation_refusal(run.error, prompt, wanted if isinstance(wanted, int) else 0)
            if refusal is None:
                raise run.error
            raise refusal from run.error

    def count_tokens(self, prompt: Any, /) -> int:
        """Return how many tokens a prompt has, as the model is given it."""
        self._check(prompt)
        if isinstance(prompt, str):
            return self._length(prompt)
        encoded = self._pipeline.tokenizer.apply_chat_template(self._data(prompt), add_generation_prompt=True)
        return len(encoded["input_ids"] if isinstance(encoded, Mapping) else encoded)

    def _sampling(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords with what they mean to the pipeline."""
        rest = dict(given)
        if (seed := rest.pop("seed", None)) is not None:
            if type(seed) is not int:
                raise InvalidArgumentError(f"seed must be a number, got {seed!r}")
            self._transformers.set_seed(seed % (1 << 32))
        temperature = rest.get("temperature")
        if isinstance(temperature, (int, float)) and "do_sample" not in rest:
            rest["do_sample"] = temperature > 0
            if not temperature:
                del rest["temperature"]
        return rest

    def _check(self, prompt: Any) -> None:
        if isinstance(prompt, str):
            if not self._length(prompt):
                raise InvalidArgumentError("the prompt has no tokens; pass a text that is not empty")
        elif not (isinstance(prompt, (list, tuple)) and prompt and all(map(_is_message, prompt))):
            raise InvalidArgumentError(
                f"a prompt is a string or a list of messages with role and content, got {type(prompt).__name__}"
            )

    def _generation_refusal(self, error: BaseException, prompt: Any, more_tokens: int) -> InvalidArgumentError | None:
        if type(error).__module__.startswith("jinja2"):  # a chat template is a Jinja template
            return InvalidArgumentError(f"the chat template refused the messages: {first_lines(error)}")
        return self.refusal(error, prompt, more_tokens)


def _is_message(part: object) -> bool:
    return isinstance(part, Mapping) and "role" in part and "content" in part


class _Run:
    """One generation, in a thread that makes at most one token more than were asked for, and ends with the block.

    So a slow reader holds the text back, not the memory, and while nobody reads other calls have the processor.
    """

    def __init__(self, generate: Callable[..., Any], streamer: Any) -> None:
        self.error: BaseException | None = None
        self._generate = generate
        self._streamer = streamer
        self._is_over = False
        self._is_wanted = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._make, name="generate", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def next_text(self) -> str | None:
        """Return the next piece of text, which may be empty; None at the end."""
        self._want(is_wanted=True)
        text: str | None = next(self._streamer, None)
        self._want(is_wanted=False)
        return text

    def _want(self, *, is_wanted: bool) -> None:
        with self._changed:
            self._is_wanted = is_wanted
            self._changed.notify()

    def _make(self) -> None:
        try:
            self._generate(streamer=self._streamer, stopping_criteria=[self._must_stop])
        except BaseException as error:  # noqa: BLE001 - it is raised again where the text is read
            self.error = error
        finally:
            self._streamer.end()

    def _must_stop(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - the library's shape
        with self._changed:
            self._changed.wait_for(self._may_go_on)
        # One answer for each sequence of the batch.
        return input_ids.new_full((input_ids.shape[0],), self._is_over).bool()

    def _may_go_on(self) -> bool:
        return self._is_over or (self._is_wanted and self._streamer.text_queue.empty())
