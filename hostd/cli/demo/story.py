"""What the demo does, step by step, and what it finds; showing it is `show`'s business.

Every claim is checked here, and a broken one lands in `Story.problems`, which decides the exit code.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hostd
from hostd.cli.demo import models

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hostd import Client, Model
    from hostd.records import ModelInfo, UnloadReport

BABBLER = "babbler"
_LEAST_BYTES = models.TABLE_MIB * 2**20
_SINGLE_CALLS = 50
_WORDS = 24


@dataclass(frozen=True)
class Comparison:
    """A classifier in the host beside the same file in this process; times are seconds per call with one digit."""

    model: str
    title: str
    accuracy: float
    accuracy_in_process: float
    differing: int
    call_s: float
    call_in_process_s: float


@dataclass(frozen=True)
class Stream:
    """What came out of the generator: its words, and the seconds until the first and the last of them."""

    words: tuple[str, ...]
    first_s: float
    total_s: float


@dataclass
class Story:
    """Everything that the demo found."""

    host_pid: int = 0
    start_s: float = 0.0
    held_out: int = 0
    skipped: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    stream: Stream | None = None
    models: list[ModelInfo] = field(default_factory=list)
    unloads: list[UnloadReport] = field(default_factory=list)
    total_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def check(self, claim: str, *, holds: bool) -> None:
        """Note a claim that does not hold."""
        if not holds:
            self.problems.append(claim)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain values, ready for JSON."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "host": {"pid": self.host_pid, "start_s": self.start_s},
            "held_out": self.held_out,
            "skipped": self.skipped,
            "comparisons": [vars(comparison) for comparison in self.comparisons],
            "stream": vars(self.stream) if self.stream else None,
            "models": [model.to_dict() for model in self.models],
            "unloads": [report.to_dict() for report in self.unloads],
            "total_s": self.total_s,
        }


class Narrator:
    """Is told what happens while it happens. This one shows nothing; `show` has one that speaks."""

    def working(self, text: str) -> AbstractContextManager[None]:  # noqa: ARG002 - for subclasses that show it
        """For the length of a block something is being done."""
        return nullcontext()

    def trained(self, made: list[models.Classifier], data: models.Digits, story: Story) -> None:
        """The models are on disk."""

    def started(self, story: Story) -> None:
        """The host runs."""

    def loaded(self, model: ModelInfo, title: str) -> None:
        """A model is ready."""

    def compared(self, story: Story) -> None:
        """Every classifier has answered."""

    def word(self, word: str) -> None:
        """The generator yielded a word."""

    def streamed(self, story: Story) -> None:
        """The stream has ended."""

    def measured(self, story: Story) -> None:
        """The sizes are known."""

    def unloaded(self, story: Story) -> None:
        """All models are gone."""


def tell(narrator: Narrator) -> Story:
    """Run the whole demo and return what it found. Raises HostError if the host refuses something."""
    story = Story()
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hostd-demo-") as name:
        with narrator.working("training models on scanned digits"):
            data = models.digits()
            made = models.train(Path(name), data)
            babbler = models.write_babbler(Path(name))
        story.held_out = len(data.held_out)
        if missing := models.missing_for_onnx():
            story.skipped = f"no ONNX model: {' and '.join(missing)} not installed"
        narrator.trained(made, data, story)
        _host(narrator, story, made, data, babbler)
    story.check(f"the host (pid {story.host_pid}) still runs", holds=not _is_alive(story.host_pid))
    story.total_s = time.perf_counter() - began_s
    return story


def _host(narrator: Narrator, story: Story, made: list[models.Classifier], data: models.Digits, babbler: Path) -> None:
    began_s = time.perf_counter()
    with hostd.Host() as host:
        client = host.client()
        story.host_pid = client.host_info().pid
        story.start_s = time.perf_counter() - began_s
        narrator.started(story)
        for classifier in made:
            _load(narrator, client, classifier.id, classifier.path, classifier.title)
        _load(narrator, client, BABBLER, babbler, f"a Python generator that holds {models.TABLE_MIB} MiB")
        with narrator.working(f"predicting {story.held_out} held-out digits"):
            story.comparisons = [_compare(client.retrieve_model(c.id), c, data) for c in made]
        for found in story.comparisons:
            same = found.accuracy == found.accuracy_in_process and not found.differing
            story.check(f"{found.model} answers otherwise in the host than in this process", holds=same)
        narrator.compared(story)
        story.stream = _stream(narrator, client.retrieve_model(BABBLER))
        narrator.streamed(story)
        _measure(story, client)
        narrator.measured(story)
        _unload(narrator, story, client)
        narrator.unloaded(story)


def _load(narrator: Narrator, client: Client, model_id: str, path: Path, title: str) -> None:
    with narrator.working(f"loading {model_id}"):
        handle = client.load_model(model_id, str(path))
    narrator.loaded(handle.info, title)


def _compare(handle: Model, classifier: models.Classifier, data: models.Digits) -> Comparison:
    pixels = data.held_out.astype(classifier.dtype)
    predict = classifier.in_process()
    here, hosted = predict(pixels), classifier.labels(handle.predict(pixels))
    return Comparison(
        model=classifier.id,
        title=classifier.title,
        accuracy=float((hosted == data.held_out_labels).mean()),
        accuracy_in_process=float((here == data.held_out_labels).mean()),
        differing=int((hosted != here).sum()),
        call_s=_median_s(handle.predict, pixels),
        call_in_process_s=_median_s(predict, pixels),
    )


def _median_s(predict: Callable[[Any], Any], pixels: Any) -> float:
    times_s = []
    for index in range(_SINGLE_CALLS):
        began_s = time.perf_counter()
        predict(pixels[index : index + 1])
        times_s.append(time.perf_counter() - began_s)
    return statistics.median(times_s)


def _stream(narrator: Narrator, handle: Model) -> Stream:
    words: list[str] = []
    began_s = time.perf_counter()
    first_s = 0.0
    for word in handle.stream.generate("The", words=_WORDS):
        first_s = first_s or time.perf_counter() - began_s
        words.append(word)
        narrator.word(word)
    return Stream(tuple(words), first_s, time.perf_counter() - began_s)


def _measure(story: Story, client: Client) -> None:
    story.models = client.list_models()
    sizes = {model.id: model.size or 0 for model in story.models}
    story.check(f"{BABBLER} is measured as smaller than what it holds", holds=sizes.get(BABBLER, 0) >= _LEAST_BYTES)
    stream = story.stream
    story.check("the generator did not yield its words one by one", holds=_came_one_by_one(stream))


def _came_one_by_one(stream: Stream | None) -> bool:
    return stream is not None and len(stream.words) == _WORDS and stream.first_s < stream.total_s / 2


def _unload(narrator: Narrator, story: Story, client: Client) -> None:
    pids = [worker.pid for model in story.models for worker in model.workers if worker.pid]
    with narrator.working("unloading all models"):
        story.unloads = client.unload_all_models()
    left = [pid for pid in pids if _is_alive(pid)]
    story.check(f"processes are left after the unload: {left}", holds=not left)
    freed = {report.model_id: report.freed_bytes for report in story.unloads}
    story.check("not every model was unloaded", holds=set(freed) == {model.id for model in story.models})
    sizes = [report.size_bytes for report in story.unloads]
    story.check("an unload does not know the size of what it unloaded", holds=all(sizes))
    story.check(f"{BABBLER} gave back less than it held", holds=freed.get(BABBLER, 0) >= _LEAST_BYTES)


def _is_alive(pid: int) -> bool:
    """Ask the operating system, not the host; a zombie counts as alive, for it is not reaped."""
    return Path(f"/proc/{pid}").exists()
