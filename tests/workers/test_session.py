"""A worker's conversation, from its hello to its last words, without a socket."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hostd_workers.session import Session
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import (
    HostError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    VersionMismatchError,
    from_wire,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ECHO = """
class Echo:
    def predict(self, x):
        "Return it."
        return x
    def generate(self, n):
        yield from range(n)
def load(path, **options):
    return Echo()
"""


class Conversation:
    """A session, what it sent, and ways to speak to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sent: list[wire.Envelope] = []
        self.session = Session("00ff", lambda frames: self.sent.append(wire.unpack(frames)))

    def load(self, source: str = ECHO, **request: Any) -> wire.Envelope:
        (self.directory / "model.py").write_text(source)
        path = str(self.directory)
        body = {"model_id": "m", "path": path, "loader": "python", "options": {}, **request}
        self.session.accept(msg.pack_map(msg.LOAD, 0, body))
        return self.sent[-1]

    def refusal(self, source: str = ECHO, **request: Any) -> HostError:
        answer = self.load(source, **request)
        assert (answer.kind, answer.id) == (msg.ERROR, 0)
        assert self.session.runtime is None
        return msg.unpack_error(answer)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Conversation]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Conversation(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def a_call(id: int, method: str, *args: Any, kind: int = msg.CALL) -> list[wire.Buffer]:
    body, buffers = encode_call(args, {})
    return wire.pack(kind, id, msg.pack_target(msg.Target("m", method, window=9)), body, buffers)


def test_a_hello_says_who_it_is_and_which_versions_it_speaks(worker: Conversation) -> None:
    worker.session.greet()
    (hello,) = worker.sent
    assert (hello.kind, hello.id) == (msg.WORKER_HELLO, 0)
    assert msg.unpack_map(hello) == {
        "token": "00ff",
        "versions": [1],
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def test_a_load_is_answered_with_what_the_model_serves(worker: Conversation) -> None:
    answer = worker.load()
    assert (answer.kind, answer.id) == (msg.LOADED, 0)
    body = msg.unpack_map(answer)
    assert set(body) == {"loader", "methods", "default_method", "warnings"}
    assert body["loader"] == "python"
    assert body["default_method"] == "predict"
    assert set(body["methods"]) == {"predict", "generate"}
    assert body["methods"]["generate"]["streams"] is True
    assert body["methods"]["predict"] == {
        "name": "predict",
        "streams": False,
        "is_async": False,
        "signature": "(x)",
        "doc": "Return it.",
    }
    assert not worker.session.is_async


def test_calls_run_after_the_load_and_are_nothing_before_it(worker: Conversation) -> None:
    worker.session.accept(a_call(1, "predict", "early"))
    assert worker.sent == []
    worker.load()
    worker.session.accept(a_call(2, "predict", "x"))
    runtime = worker.session.runtime
    assert runtime is not None
    runtime.step()
    answer = worker.sent[-1]
    assert (answer.kind, answer.id, decode(answer.body)) == (msg.RESULT, 2, "x")


def test_a_batch_is_taken_in_as_its_messages_in_order(worker: Conversation) -> None:
    worker.load()
    calls = [a_call(id, "predict", id)[0] for id in (1, 2, 3)]
    worker.session.accept([wire.pack_batch([*calls, wire.pack(msg.CANCEL, 2)[0]])])
    runtime = worker.session.runtime
    assert runtime is not None
    while runtime.has_work:
        runtime.step()
    assert [(answer.id, answer.kind) for answer in worker.sent[1:]] == [
        (1, msg.RESULT),
        (2, msg.ERROR),
        (3, msg.RESULT),
    ]


def test_coroutine_methods_make_the_session_asynchronous(worker: Conversation) -> None:
    worker.load("class M:\n    async def predict(self, x):\n        return x\ndef load(path):\n    return M()\n")
    assert worker.session.is_async


def test_the_request_chooses_methods_and_default_before_the_loader_does(worker: Conversation) -> None:
    source = ECHO.replace("return Echo()", "return Served(Echo(), methods=('generate',), default='generate')")
    source = "from hostd_workers.api import Served\n" + source
    body = msg.unpack_map(worker.load(source))
    assert (set(body["methods"]), body["default_method"]) == ({"generate"}, "generate")
    body = msg.unpack_map(worker.load(source, methods=["predict"], default_method="predict"))
    assert (set(body["methods"]), body["default_method"]) == ({"predict"}, "predict")


def test_options_reach_the_loader(worker: Conversation) -> None:
    source = "class M:\n    pass\ndef load(path, *, name):\n    M.method = lambda self: 1\n    M.name = name\n"
    source += "    return type('M', (), {name: lambda self: 1})()\n"
    assert set(msg.unpack_map(worker.load(source, options={"name": "chosen"}))["methods"]) == {"chosen"}


INITIALIZED = """
from hostd_workers.api import Served
class Warm:
    def __init__(self, model, rounds):
        self.model, self.rounds = model, rounds
    def predict(self, x):
        return [self.model.predict(x)] * self.rounds
def warmed(spec, *, rounds=1):
    return Served(Warm(spec.load(), rounds), methods=("predict",))
"""


def test_an_initializer_makes_what_is_served(worker: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker.directory / "house_initializers.py").write_text(INITIALIZED)
    monkeypatch.syspath_prepend(worker.directory)
    answer = worker.load(initializer=["house_initializers:warmed", {"rounds": 2}])
    assert set(msg.unpack_map(answer)["methods"]) == {"predict"}
    worker.session.accept(a_call(2, "predict", "x"))
    runtime = worker.session.runtime
    assert runtime is not None
    runtime.step()
    assert decode(worker.sent[-1].body) == ["x", "x"]


def test_no_initializer_and_the_default_one_are_the_same(worker: Conversation) -> None:
    for initializer in (None, ["default", {}]):
        assert set(msg.unpack_map(worker.load(initializer=initializer))["methods"]) == {"predict", "generate"}


# Loads that fail


def test_what_the_models_load_raises_comes_with_its_own_traceback(worker: Conversation) -> None:
    error = worker.refusal("def load(path):\n    return helper()\ndef helper():\n    raise ValueError('no weights')\n")
    assert type(error) is ModelError
    assert error.message == "loading failed: ValueError: no weights"
    assert error.details["type"] == "ValueError"
    assert error.traceback.count("File ") == 2
    assert "in helper" in error.traceback
    assert "session.py" not in error.traceback


def test_what_the_models_module_raises_while_it_is_imported_shows_where(worker: Conversation) -> None:
    error = worker.refusal("import nonexistent_library_of_the_model\n")
    assert isinstance(error, ModelError)
    assert "ModuleNotFoundError" in error.message
    assert "model.py" in error.traceback


def test_a_syntax_error_shows_the_line(worker: Conversation) -> None:
    error = worker.refusal("def load(path)\n")
    assert isinstance(error, ModelError)
    assert "def load(path)" in error.traceback


@pytest.mark.parametrize(
    ("source", "request_", "cls", "says"),
    [
        (ECHO, {"loader": "nope"}, InvalidArgumentError, "no loader 'nope'"),
        (ECHO, {"initializer": ["nope", {}]}, InvalidArgumentError, "no initializer 'nope'"),
        (ECHO, {"initializer": ["default", {"n": 1}]}, InvalidArgumentError, "signature"),
        (ECHO, {"initializer": ["default"]}, InvalidArgumentError, "must be nil or [reference, config]"),
        (ECHO, {"initializer": "default"}, InvalidArgumentError, "must be nil or [reference, config]"),
        (ECHO, {"initializer": ["default", {1: 2}]}, InvalidArgumentError, "must be nil or [reference, config]"),
        (ECHO, {"path": "/no/such/path"}, NotFoundError, "nothing at /no/such/path"),
        (ECHO, {"methods": ["nope"]}, InvalidArgumentError, "no method 'nope' to expose"),
        (ECHO, {"default_method": "nope"}, InvalidArgumentError, "default method 'nope'"),
        ("def load(path):\n    return None\n", {}, InvalidArgumentError, "returned None"),
        ("def load(path):\n    return object()\n", {}, InvalidArgumentError, "no public method"),
        ("def load():\n    return 1\n", {}, InvalidArgumentError, "signature"),
        ("x = 1\n", {}, InvalidArgumentError, "has no load"),
    ],
)
def test_a_load_that_cannot_work_is_a_typed_refusal(
    worker: Conversation, source: str, request_: dict[str, Any], cls: type[HostError], says: str
) -> None:
    error = worker.refusal(source, **request_)
    assert type(error) is cls
    assert says in error.message


def test_a_model_that_exits_while_it_loads_is_not_held_back(worker: Conversation) -> None:
    with pytest.raises(SystemExit):
        worker.load("import sys\nsys.exit(3)\n")
    assert worker.sent == []


def test_an_incomplete_request_is_answered_and_does_not_end_the_worker(worker: Conversation) -> None:
    worker.session.accept(msg.pack_map(msg.LOAD, 0, {"model_id": "m"}))
    error = msg.unpack_error(worker.sent[-1])
    assert isinstance(error, ModelError)
    assert "session.py" in error.traceback, "an error of ours has no frame of the model's, so it shows ours"


# What no supervisor sends


def test_a_message_that_is_none_raises_a_typed_error(worker: Conversation) -> None:
    for frames in ([], [b"x"], [b"\x17\x01" + bytes(13) + b"\x05"]):
        with pytest.raises(HostError):
            worker.session.accept(frames)
    with pytest.raises(VersionMismatchError):
        worker.session.accept([b"\x02\x63" + bytes(14)])


# Last words


@pytest.mark.parametrize(
    ("error", "cls", "message"),
    [
        (SystemExit(3), ModelError, "SystemExit: 3"),
        (KeyboardInterrupt(), ModelError, "KeyboardInterrupt"),
        (ValueError("no \udcff"), ModelError, "ValueError: no \\udcff"),
        (NotFoundError("gone"), NotFoundError, "gone"),
    ],
)
def test_last_words_say_why(worker: Conversation, error: BaseException, cls: type[HostError], message: str) -> None:
    worker.session.say_last_words(error)
    (words,) = worker.sent
    assert (words.kind, words.id) == (msg.LAST_WORDS, 0)
    body = msg.unpack_map(words)
    said = from_wire([body[name] for name in ("status", "kind", "message", "details")])
    assert type(said) is cls
    assert said.message == message
