"""Everything that a caller can get wrong: each a typed error that says what to do, and the host goes on."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, named, program

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BROKEN = """
    class Broken:
        def predict(self, x):
            return self.deeper(x)

        def deeper(self, x):
            raise KeyError(f"no column {x!r}")

        def strange(self):
            return object()

        def generate(self):
            yield 1
            raise RuntimeError("out of words")

        def one(self, x, *, scale=1):
            return x * scale

    def load(path, fail=False):
        if fail:
            raise FileNotFoundError("weights.bin is not there")
        return Broken()
"""


@pytest.fixture
def goes_on(shared: hostd.Client, model_dir: Callable[..., str]) -> Iterator[hostd.Client]:
    """A client of a host that must work after the test as it did before."""
    pid = shared.host_info().pid
    yield shared
    assert shared.load_model("afterwards", model_dir()).predict(1) == 1
    assert shared.host_info().pid == pid


@pytest.fixture
def broken(goes_on: hostd.Client, model_dir: Callable[..., str]) -> hostd.Model:
    return goes_on.load_model("broken", model_dir(BROKEN))


# Methods and arguments


def test_an_unknown_method_is_unimplemented_and_the_known_ones_are_listed(broken: hostd.Model) -> None:
    for call in (lambda: broken.call("predcit", 1), lambda: broken.predcit(1), lambda: broken.stream.predcit(1)):
        with pytest.raises(hostd.UnimplementedError, match="predict") as caught:
            call()
        assert "predict" in caught.value.details["methods"]
    assert not hasattr(broken, "predcit")


@pytest.mark.parametrize("name", ["_private", "__init__", "__class__", "__reduce__", "deeper.__globals__", "", "a b"])
def test_what_is_private_to_the_model_cannot_be_called(broken: hostd.Model, name: str) -> None:
    with pytest.raises(hostd.HostError) as caught:
        broken.call(name)
    assert caught.value.status in (hostd.Status.UNIMPLEMENTED, hostd.Status.INVALID_ARGUMENT)


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((1,), {"sclae": 2}), ((), {"scale": 2})])
def test_wrong_arguments_are_refused_with_the_signature(broken: hostd.Model, arguments: tuple) -> None:
    positional, named = arguments
    with pytest.raises(hostd.InvalidArgumentError, match=r"one\(x, \*, scale=1\)"):
        broken.one(*positional, **named)


def test_a_generator_that_is_called_plainly_says_how_to_call_it(broken: hostd.Model) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match=r"model\.stream\.generate"):
        broken.generate()


def test_a_method_that_does_not_yield_cannot_be_streamed(broken: hostd.Model) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match=r"model\.one"):
        list(broken.stream.one(1))


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**80, lambda: 1, "\ud800"], ids=named)
def test_what_cannot_travel_is_refused_before_it_is_sent(broken: hostd.Model, value: object) -> None:
    with pytest.raises(hostd.InvalidArgumentError):
        broken.one(value)
    assert broken.one(2) == 2


def test_a_result_that_cannot_travel_is_the_models_error(broken: hostd.Model) -> None:
    with pytest.raises(hostd.ModelError, match="strange"):
        broken.strange()


def test_a_value_that_contains_itself_is_refused(broken: hostd.Model) -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(hostd.InvalidArgumentError):
        broken.one(endless)


def test_object_arrays_are_refused(broken: hostd.Model) -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(hostd.InvalidArgumentError):
        broken.one(np.array([object()]))


# The model's own code


def test_a_model_that_raises_while_predicting_shows_its_own_traceback(broken: hostd.Model) -> None:
    with pytest.raises(hostd.ModelError, match="no column 'age'") as caught:
        broken.predict("age")
    assert caught.value.status is hostd.Status.UNKNOWN
    frames = [line for line in caught.value.traceback.splitlines() if line.lstrip().startswith("File ")]
    assert len(frames) == 2, "only the model's own frames are shown"
    assert all("model.py" in frame for frame in frames)
    assert broken.info.errors == 1
    assert broken.one(1) == 1


def test_a_model_that_raises_in_the_middle_of_a_stream_ends_it(broken: hostd.Model) -> None:
    stream = broken.stream.generate()
    assert next(stream) == 1
    with pytest.raises(hostd.ModelError, match="out of words"):
        next(stream)
    assert list(stream) == []


def test_a_model_that_raises_while_loading_shows_its_own_traceback(
    goes_on: hostd.Client, model_dir: Callable[..., str]
) -> None:
    with pytest.raises(hostd.ModelError, match=r"weights\.bin is not there") as caught:
        goes_on.load_model("broken", model_dir(BROKEN), options={"fail": True})
    assert "FileNotFoundError" in caught.value.traceback
    assert "model.py" in caught.value.traceback


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def lod(path):\n    pass\n", "load"),
        ("def load(path):\n    return None\n", "None"),
        ("def load(path):\n    return object()\n", "no public method"),
        ("def load(path:\n", "model.py"),
        ("import no_such_library\ndef load(path):\n    pass\n", "no_such_library"),
        ("raise SystemExit(3)\n", "exit code 3"),
    ],
    ids=["no-load", "none", "nothing-to-call", "syntax", "import", "exit"],
)
def test_a_model_file_that_is_wrong_says_what_is_wrong(
    goes_on: hostd.Client, model_dir: Callable[..., str], source: str, words: str
) -> None:
    with pytest.raises(hostd.HostError, match=words) as caught:
        goes_on.load_model("wrong", model_dir(source))
    assert caught.value.status is not hostd.Status.INTERNAL
    assert goes_on.list_models() == []


def test_options_that_the_model_does_not_take_are_refused_by_name(
    goes_on: hostd.Client, model_dir: Callable[..., str]
) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match="fial"):
        goes_on.load_model("wrong", model_dir(BROKEN), options={"fial": True})


# Models and files


@pytest.mark.parametrize("verb", ["retrieve_model", "get_model", "get_model_size", "explain_model"])
def test_an_unknown_model_is_not_found_by_name(goes_on: hostd.Client, verb: str) -> None:
    with pytest.raises(hostd.NotFoundError, match="nobody"):
        getattr(goes_on, verb)("nobody")


IDS = ["", " ", ".", "..", "../x", "/x", "x/", "a//b", "a/../b", ".hidden", "a\0b", "a\nb", "x" * 600, "a\\b", "\u200b"]


@pytest.mark.parametrize("model_id", IDS, ids=ascii)
def test_a_bad_id_is_refused(goes_on: hostd.Client, model_dir: Callable[..., str], model_id: str) -> None:
    with pytest.raises(hostd.InvalidArgumentError):
        goes_on.load_model(model_id, model_dir())
    with pytest.raises(hostd.InvalidArgumentError):
        goes_on.retrieve_model(model_id)


@pytest.mark.parametrize("model_id", [None, 7, b"x", ["a"], {"a": 1}], ids=repr)
def test_an_id_that_is_no_text_is_refused_by_every_verb(
    goes_on: hostd.Client, model_dir: Callable[..., str], model_id: object
) -> None:
    for verb in ("retrieve_model", "unload_model", "get_model", "explain_model", "model_logs"):
        with pytest.raises(hostd.InvalidArgumentError, match="model_id"):
            getattr(goes_on, verb)(model_id)
    with pytest.raises(hostd.InvalidArgumentError, match="model_id"):
        goes_on.load_model(model_id, model_dir())


@pytest.mark.parametrize("model_id", ["ü" * 100, "日本語" * 20, "a/" * 200 + "a", "a b", "x.log", "100%"], ids=ascii)
def test_an_unusual_id_works_in_everything(goes_on: hostd.Client, model_dir: Callable[..., str], model_id: str) -> None:
    source = "print('hello')\nclass M:\n    def predict(self, x):\n        return x\ndef load(path):\n    return M()\n"
    assert goes_on.load_model(model_id, model_dir(source)).predict(1) == 1
    assert [info.id for info in goes_on.list_models()] == [model_id]
    assert goes_on.explain_model(model_id)["state"] == "READY"
    assert goes_on.unload_model(model_id).processes == 1
    eventually(lambda: goes_on.model_logs(model_id) == "hello\n", "it is in the log")


def test_a_path_where_nothing_is_is_not_found(goes_on: hostd.Client, tmp_path: Path) -> None:
    with pytest.raises(hostd.NotFoundError, match="absent"):
        goes_on.load_model("absent", tmp_path / "absent")


def test_a_path_that_no_finder_knows_says_what_was_looked_for(goes_on: hostd.Client, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "notes.txt", None):
        with pytest.raises(hostd.InvalidArgumentError, match=r"model\.py"):
            goes_on.load_model("unknown", path)


def test_a_fifo_and_a_device_do_not_hang_the_host(goes_on: hostd.Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.py")
    os.mkdir(tmp_path / "settings")
    os.mkfifo(tmp_path / "settings" / "model.yaml")
    for path in (tmp_path / "model.py", tmp_path / "settings", "/dev/zero", "/dev/null"):
        with at_most(SOON_S, f"a load of {path}"), pytest.raises(hostd.HostError):
            goes_on.load_model("unknown", path, timeout_s=4)


@pytest.mark.parametrize(
    ("name", "library", "content"),
    [
        ("m.joblib", "joblib", b"\x80\x04junk"),
        ("m.pkl", "joblib", b""),
        ("m.skops", "skops", b"PK\x03\x04"),
        ("m.onnx", "onnxruntime", b"\x80\x04junk"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    goes_on: hostd.Client, tmp_path: Path, name: str, library: str, content: bytes
) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(hostd.HostError, match=name) as caught:
        goes_on.load_model("junk", tmp_path / name)
    assert caught.value.status in (hostd.Status.INVALID_ARGUMENT, hostd.Status.UNKNOWN)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("laoder: python", "loader"),
        ("loader: tenserflow", "tenserflow"),
        ("loader: no_such_module:load", "no_such_module"),
        ("python: /no/such/python", "python"),
        ("options: [1]", "options"),
        ("methods: [predict, fly]", "fly"),
        ("default_method: fly", "fly"),
        ("[", "line"),
        ("options: {n: 99999999999999999999999999}", "64 bit"),
        ('options: {text: "\\ud800"}', "options"),
        ("env: {PYTHONHOME: /nowhere}", "exit code 1"),
    ],
)
def test_wrong_settings_are_refused_at_once(
    goes_on: hostd.Client, model_dir: Callable[..., str], settings: str, words: str
) -> None:
    with at_most(PATIENCE_S, "a load with wrong settings"), pytest.raises(hostd.HostError, match=words) as caught:
        goes_on.load_model("wrong", model_dir(settings=settings), timeout_s=PATIENCE_S)
    assert caught.value.status is not hostd.Status.DEADLINE_EXCEEDED


def test_a_missing_library_of_a_loader_names_the_extra(
    goes_on: hostd.Client, model_dir: Callable[..., str], tmp_path: Path
) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "onnxruntime.py").write_text("raise ModuleNotFoundError('no onnxruntime', name='onnxruntime')\n")
    settings = f"loader: onnx\nenv: {{PYTHONPATH: '{hide}'}}"
    path = model_dir(settings=settings, files={"m.onnx": "x"})
    with pytest.raises(hostd.FailedPreconditionError, match=r"install it with.*onnx"):
        goes_on.load_model("onnx", path)


def test_text_where_an_array_is_needed_is_the_callers_error(goes_on: hostd.Client, tmp_path: Path) -> None:
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    source = """
        import sys, joblib
        from sklearn.linear_model import LogisticRegression
        joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), sys.argv[1])
    """
    with program(source, tmp_path / "m.joblib") as writer:  # a process of its own: it brings threads
        assert writer.wait(PATIENCE_S) == 0
    model = goes_on.load_model("digits", tmp_path / "m.joblib")
    for wrong in ("text", None, {"a": 1}, [["x"]], [[1.0, 2.0]]):
        with pytest.raises((hostd.InvalidArgumentError, hostd.ModelError)):
            model.predict(wrong)
    assert list(model.predict([[1.0]])) == [1]


def test_unknown_plugins_are_refused_by_name(goes_on: hostd.Client, model_dir: Callable[..., str]) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match="finder 'x'"):
        goes_on.load_model("m", model_dir(), finder="x")
    with pytest.raises(hostd.InvalidArgumentError, match="initializer 'x'"):
        goes_on.load_model("m", model_dir(), initializer="x")


@pytest.mark.parametrize(
    "options",
    [{"a": [1, {"b": 2}]}, {"a": b"x" * 100_000}, {"a": (1, None)}],
    ids=["nested", "bytes", "tuple"],
)
def test_options_of_every_kind_reach_the_model_and_can_be_given_again(
    goes_on: hostd.Client, model_dir: Callable[..., str], options: dict
) -> None:
    path = model_dir("def load(path, a):\n    return lambda: repr(a)[:3]\n")
    first = goes_on.load_model("m", path, options=options)
    assert first() == repr(options["a"])[:3]
    assert goes_on.load_model("m", path, options=options).info.generation == first.info.generation


def test_an_array_as_an_option_is_refused_wherever_it_hides(
    goes_on: hostd.Client, model_dir: Callable[..., str]
) -> None:
    array = pytest.importorskip("numpy").arange(2000)
    for value in (array, [array], {"deep": (1, array)}, array[:2]):
        with pytest.raises(hostd.InvalidArgumentError, match="option 'a' has an array"):
            goes_on.load_model("m", model_dir(), options={"a": value}, timeout_s=PATIENCE_S)


# Endpoints

BEFORE_THE_DEFAULT_S = 4.5  # a connection has 5 s unless it is told otherwise


def test_an_endpoint_where_nothing_is_says_how_to_start_a_host(tmp_path: Path) -> None:
    with (
        at_most(BEFORE_THE_DEFAULT_S, "a connection that fails"),
        pytest.raises(hostd.UnavailableError, match="hostd serve") as caught,
    ):
        hostd.connect(f"ipc://{tmp_path}/client.ipc", connect_timeout_s=0.3)
    assert "no socket" in caught.value.message


def test_a_stale_socket_is_called_stale(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "client.ipc"))
    with at_most(BEFORE_THE_DEFAULT_S, "a connection that fails"), pytest.raises(hostd.UnavailableError, match="stale"):
        hostd.connect(f"ipc://{tmp_path}/client.ipc", connect_timeout_s=0.3)


def test_something_else_that_listens_is_no_host(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "client.ipc"))
        silent.listen()
        with (
            at_most(BEFORE_THE_DEFAULT_S, "a connection that fails"),
            pytest.raises(hostd.UnavailableError, match="nothing there answers as a host"),
        ):
            hostd.connect(f"ipc://{tmp_path}/client.ipc", connect_timeout_s=0.5)


def test_a_closed_port_is_no_host() -> None:
    with (
        at_most(BEFORE_THE_DEFAULT_S, "a connection that fails"),
        pytest.raises(hostd.UnavailableError, match="hostd serve"),
    ):
        hostd.connect("tcp://127.0.0.1:1", connect_timeout_s=0.5)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://x", "ipc://", "tcp://nowhere", "tcp://127.0.0.1:99999"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with at_most(BEFORE_THE_DEFAULT_S, "a connection that fails"), pytest.raises(hostd.HostError) as caught:
        hostd.connect(endpoint, connect_timeout_s=0.5)
    assert caught.value.status in (hostd.Status.INVALID_ARGUMENT, hostd.Status.UNAVAILABLE)


def test_a_closed_client_says_so(shared_host: hostd.Host) -> None:
    client = hostd.connect(shared_host.endpoint)
    client.close()
    client.close()
    with pytest.raises(hostd.FailedPreconditionError, match="closed"):
        client.list_models()


def test_the_interpreter_of_these_tests_is_the_workers_too(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    path = model_dir("import sys\ndef load(path):\n    return lambda: sys.executable\n")
    assert shared.load_model("m", path)() == sys.executable
