"""A worker's conversation, from its hello to its last words, without a socket; what errors say: see `e2e`."""

import os
import sys
import warnings

import pytest

from hostd_workers import loading
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

    def __init__(self, directory):
        self.directory = directory
        self.sent = []
        self.session = Session("00ff", lambda frames: self.sent.append(wire.unpack(frames)))

    def load(self, source=ECHO, **request):
        (self.directory / "model.py").write_text(source)
        path = str(self.directory)
        body = {"model_id": "m", "path": path, "loader": "python", "options": {}, **request}
        self.session.accept(msg.pack_map(msg.LOAD, 0, body))
        return self.sent[-1]

    def refusal(self, source=ECHO, **request):
        answer = self.load(source, **request)
        assert (answer.kind, answer.id) == (msg.ERROR, 0)
        assert self.session.runtime is None
        return msg.unpack_error(answer)

    def methods(self, *source, **request):
        body = msg.unpack_map(self.load(*source, **request))
        return set(body["methods"]), body["default_method"]

    def answers(self, *calls):
        """Have messages arrive and run all, and return what was sent."""
        before = len(self.sent)
        for frames in calls:
            self.session.accept(frames)
        while self.session.runtime.has_work:
            self.session.runtime.step()
        return [(one.id, one.kind, decode(one.body) if one.kind == msg.RESULT else None) for one in self.sent[before:]]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Conversation(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def a_call(id, method, *args, kind=msg.CALL):
    body, buffers = encode_call(args, {})
    return wire.pack(kind, id, msg.pack_target(msg.Target("m", method, window=9)), body, buffers)


def test_a_hello_says_which_process_it_is_and_which_versions_it_speaks(worker):
    worker.session.greet()
    (hello,) = worker.sent
    assert (hello.kind, hello.id) == (msg.WORKER_HELLO, 0)
    python = ".".join(map(str, sys.version_info[:3]))
    assert msg.unpack_map(hello) == {"token": "00ff", "versions": [1], "pid": os.getpid(), "python": python}


def test_a_load_is_answered_with_what_the_model_serves(worker):
    answer = worker.load()
    assert (answer.kind, answer.id) == (msg.LOADED, 0)
    body = msg.unpack_map(answer)
    assert set(body) == {"loader", "methods", "default_method", "warnings", "lane", "has_close"}
    assert (body["loader"], body["default_method"], set(body["methods"])) == (
        "python",
        "predict",
        {"predict", "generate"},
    )
    assert body["methods"]["generate"]["streams"] is True
    described = {"name": "predict", "streams": False, "is_async": False, "signature": "(x)", "doc": "Return it."}
    assert body["methods"]["predict"] == described
    assert not worker.session.is_async
    worker.load("class M:\n    async def predict(self, x):\n        return x\ndef load(path):\n    return M()\n")
    assert worker.session.is_async


CLOSING = """
class Model:
    async def close(self):
        raise ValueError(chr(0xD800) + "x" * 5000)
    def predict(self):
        return 1
def load(path):
    return Model()
"""


def test_a_model_that_has_something_to_finish_says_so_and_what_that_raises_is_told_in_a_few_words(worker, capfd):
    assert msg.unpack_map(worker.load())["has_close"] is False
    body = msg.unpack_map(worker.load(CLOSING))
    assert (body["has_close"], set(body["methods"])) == (True, {"predict"})
    worker.session.accept(wire.pack(msg.CLOSE_MODEL, 0))
    closed = worker.sent[-1]
    assert closed.kind == msg.MODEL_CLOSED
    problem = msg.unpack_map(closed, msg.HEADER_LIMITS)["problem"]
    assert problem.startswith("ValueError: ")
    assert len(problem) <= 2000
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("source", "has_close", "methods"),
    [
        ("def close(self, position): pass", False, {"close", "predict"}),
        ("close = property(lambda self: 1 / 0)", False, {"predict"}),
        ("close = 3", False, {"predict"}),
        ("close = staticmethod(print)", True, {"predict"}),
        ("def __getattr__(self, name): return lambda: 1", False, {"predict"}),
    ],
)
def test_only_a_close_that_needs_no_argument_is_the_workers(worker, source, has_close, methods):
    body = msg.unpack_map(
        worker.load(f"class M:\n    {source}\n    def predict(self): pass\ndef load(path):\n    return M()\n")
    )
    assert (body["has_close"], set(body["methods"])) == (has_close, methods)


def test_what_is_served_names_its_own_close(worker, tmp_path):
    source = """
from hostd_workers.api import Served
class M:
    def predict(self): pass
    def close(self): raise ValueError("not this one")
def load(path):
    return Served(M(), close=lambda: open(path + "/closed", "x").close())
"""
    assert msg.unpack_map(worker.load(source))["has_close"] is True
    worker.session.accept(wire.pack(msg.CLOSE_MODEL, 0))
    assert msg.unpack_map(worker.sent[-1]) == {"problem": ""}
    assert (tmp_path / "closed").exists()


def test_calls_run_after_the_load_and_are_nothing_before_it(worker):
    worker.session.accept(a_call(1, "predict", "early"))
    assert worker.sent == []
    worker.load()
    assert worker.answers(a_call(2, "predict", "x")) == [(2, msg.RESULT, "x")]


def test_a_batch_is_taken_in_as_its_messages_in_order(worker):
    worker.load()
    calls = [a_call(id, "predict", id)[0] for id in (1, 2, 3)]
    answers = worker.answers([wire.pack_batch([*calls, wire.pack(msg.CANCEL, 2)[0]])])
    assert answers == [(1, msg.RESULT, 1), (2, msg.ERROR, None), (3, msg.RESULT, 3)]


def test_the_request_chooses_methods_and_default_before_the_loader_does(worker):
    source = ECHO.replace("return Echo()", "return Served(Echo(), methods=('generate',), default='generate')")
    source = "from hostd_workers.api import Served\n" + source
    assert worker.methods(source) == ({"generate"}, "generate")
    assert worker.methods(source, methods=["predict"], default_method="predict") == ({"predict"}, "predict")


def test_options_reach_the_loader(worker):
    source = "def load(path, *, name):\n    return type('M', (), {name: lambda self: 1})()\n"
    assert worker.methods(source, options={"name": "chosen"})[0] == {"chosen"}


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


def test_an_initializer_makes_what_is_served(worker, monkeypatch):
    (worker.directory / "house_initializers.py").write_text(INITIALIZED)
    monkeypatch.syspath_prepend(worker.directory)
    assert worker.methods(initializer=["house_initializers:warmed", {"rounds": 2}])[0] == {"predict"}
    assert worker.answers(a_call(2, "predict", "x")) == [(2, msg.RESULT, ["x", "x"])]
    for default in (None, ["default", {}]):
        assert worker.methods(initializer=default)[0] == {"predict", "generate"}


# Loads that fail


RAISING = "def load(path):\n    return helper()\ndef helper():\n    raise ValueError('no weights')\n"


@pytest.mark.parametrize(
    ("source", "message", "traceback"),
    [
        (RAISING, "loading failed: ValueError: no weights", "in helper"),
        ("import nonexistent_library_of_the_model\n", "loading failed: ModuleNotFoundError", "model.py"),
        ("def load(path)\n", "loading failed: SyntaxError", "def load(path)"),
    ],
    ids=["load", "import", "syntax"],
)
def test_what_the_models_code_raises_comes_with_its_own_traceback(worker, source, message, traceback):
    error = worker.refusal(source)
    assert type(error) is ModelError
    assert error.message.startswith(message)
    assert error.details["type"] == message.split(": ")[1]
    assert traceback in error.traceback
    assert "session.py" not in error.traceback
    assert source is not RAISING or error.traceback.count("File ") == 2


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
def test_a_load_that_cannot_work_is_a_typed_refusal(worker, source, request_, cls, says):
    error = worker.refusal(source, **request_)
    assert type(error) is cls
    assert says in error.message


def test_a_model_that_exits_while_it_loads_is_not_held_back(worker):
    with pytest.raises(SystemExit):
        worker.load("import sys\nsys.exit(3)\n")
    assert worker.sent == []


def test_an_incomplete_request_is_answered_and_does_not_end_the_worker(worker):
    worker.session.accept(msg.pack_map(msg.LOAD, 0, {"model_id": "m"}))
    error = msg.unpack_error(worker.sent[-1])
    assert isinstance(error, ModelError)
    assert "session.py" in error.traceback, "an error of ours has no frame of the model's, so it shows ours"


# What no supervisor sends


def test_a_message_that_is_none_raises_a_typed_error(worker):
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
def test_last_words_say_why(worker, error, cls, message):
    worker.session.say_last_words(error)
    (words,) = worker.sent
    assert (words.kind, words.id) == (msg.LAST_WORDS, 0)
    body = msg.unpack_map(words)
    said = from_wire([body[name] for name in ("status", "kind", "message", "details")])
    assert type(said) is cls
    assert said.message == message


# One load, where a session would show less


def test_what_keeps_the_function_that_shows_warnings_keeps_no_texts_of_ours(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(message))
    ours = warnings.showwarning
    with loading._kept_warnings() as texts:
        kept = warnings.showwarning
        kept("during the load", UserWarning, "model.py", 1)
    assert warnings.showwarning is ours
    kept("after it", UserWarning, "model.py", 1)
    assert texts == ["UserWarning: during the load"]
    assert shown == ["during the load", "after it"]


def test_a_load_that_replaces_what_shows_warnings_is_not_undone(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with loading._kept_warnings():
        warnings.showwarning = print
    assert warnings.showwarning is print


def test_a_model_without_a_path_has_no_files_that_could_change():
    request = {"model_id": "m", "path": None, "loader": f"{__name__}:made", "options": {}}
    assert loading.load(request).warnings == []


def made(path):
    return len
