"""A small library of caikit's: a task, and modules that answer it, stream, raise, and take memory."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import caikit.core
from caikit.core import TaskBase
from caikit.core.data_model import DataObjectBase, DataStream, dataobject
from caikit.core.data_model.runtime_context import RuntimeServerContextType
from caikit.core.exceptions.caikit_core_exception import CaikitCoreException, CaikitCoreStatusCode
from caikit.core.modules import ModuleSaver
from caikit.runtime import trace


@dataobject("hostd_caikit_sample.data_model")
class Question(DataObjectBase):
    text: str
    tags: list[str]


@dataobject("hostd_caikit_sample.data_model")
class Reply(DataObjectBase):
    text: str
    score: float
    parts: list[Question]
    pid: int


@caikit.core.task(
    unary_parameters={"question": Question},
    streaming_parameters={"questions": Iterable[Question]},
    unary_output_type=Reply,
    streaming_output_type=Iterable[Reply],
)
class AnswerTask(TaskBase):
    pass


class OwnError(ValueError):
    def __init__(self, number, why):
        super().__init__(f"{number}: {why}")


MADE = {
    "own": lambda: OwnError(7, "of the model's own"),
    "type": lambda: TypeError("wrong"),
    "runtime": lambda: RuntimeError("broken"),
    "not found": lambda: CaikitCoreException(CaikitCoreStatusCode.NOT_FOUND, "no such thing"),
    "file": lambda: FileNotFoundError(2, "nothing here", "/nowhere"),
}


def made(kind):
    return MADE[kind]()


@caikit.core.module("0a5a0b1e-0000-4000-8000-000000000001", "Answerer", "0.1.0", AnswerTask)
class Answerer(caikit.core.ModuleBase):
    def __init__(self, greeting="Hello"):
        super().__init__()
        self.greeting = greeting

    @classmethod
    def load(cls, model_path, **_):
        config = caikit.core.ModuleConfig.load(model_path)
        if config.fails:
            raise made(config.fails)
        while config.reads_until_gone:
            Path(config.model_path, "config.yml").read_bytes()
            time.sleep(0.01)
        return cls(config.greeting)

    def save(self, model_path, **extra):
        with ModuleSaver(self, model_path=model_path) as saver:
            saver.update_config({"greeting": self.greeting, **extra})

    @property
    def shout(self):
        return self.greeting.upper()

    @AnswerTask.taskmethod(context_arg="context")
    def run(
        self,
        question: Question,
        raised: str | None = None,
        sleep_s: float = 0.0,
        context: RuntimeServerContextType | None = None,
    ) -> Reply:
        if raised:
            raise made(raised)
        ends_s = time.monotonic() + sleep_s
        while time.monotonic() < ends_s:
            time.sleep(0.01)
        with trace.start_child_span(context, "answer"):
            said = dict(context.invocation_metadata()).get("who", "") if context is not None else ""
        return Reply(text=f"{self.greeting} {question.text}{said}", score=0.5, parts=[question], pid=os.getpid())

    @AnswerTask.taskmethod(output_streaming=True)
    def run_stream_out(self, question: Question, raised: str | None = None) -> DataStream[Reply]:
        def replies():
            for number in range(5):
                if raised and number == 3:
                    raise made(raised)
                yield Reply(text=f"{question.text} {number}")

        return DataStream(replies)

    @AnswerTask.taskmethod(input_streaming=True)
    def run_stream_in(self, questions: DataStream[Question]) -> Reply:
        texts = [question.text for question in questions]
        return Reply(text=",".join(texts), score=float(len(list(questions))))

    @AnswerTask.taskmethod(input_streaming=True, output_streaming=True)
    def run_bidi(self, questions: DataStream[Question]) -> Iterable[Reply]:
        for question in questions:
            yield self.run(question)


@caikit.core.module("0a5a0b1e-0000-4000-8000-000000000002", "Heavy", "0.1.0", AnswerTask)
class Heavy(caikit.core.ModuleBase):
    """Holds 500 MB as a library that parses a vocabulary does: in many objects, some of which outlive it."""

    SURVIVORS: list = []  # noqa: RUF012 - what a library caches

    def __init__(self):
        super().__init__()
        self.words = [bytes(1000) + index.to_bytes(8, "big") for index in range(480_000)]
        Heavy.SURVIVORS.extend(self.words[::3000])

    @classmethod
    def load(cls, model_path, **_):
        return cls()

    def save(self, model_path):
        with ModuleSaver(self, model_path=model_path):
            pass

    def run(self, question: Question) -> Reply:
        return Reply(text=str(len(self.words)), pid=os.getpid())
