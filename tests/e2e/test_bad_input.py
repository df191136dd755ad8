"""Everything that a caller can get wrong: each a typed error that says what to do, and the host goes on."""

import importlib.util
import os
import traceback

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually

import hostd

pytestmark = pytest.mark.usefixtures("way")

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
def goes_on(shared, model_dir):
    """A client of a host that must work after the test as it did before."""
    pid = shared.host_info().pid
    yield shared
    assert shared.load_model("afterwards", model_dir()).predict(1) == 1
    assert shared.host_info().pid == pid


def test_calls_that_are_wrong_are_typed_errors_and_the_model_goes_on(goes_on, model_dir):
    broken = goes_on.load_model("broken", model_dir(BROKEN))
    for call in (lambda: broken.call("predcit", 1), lambda: broken.predcit(1), lambda: broken.stream.predcit(1)):
        with pytest.raises(hostd.UnimplementedError, match="predict") as unknown:
            call()
        assert "predict" in unknown.value.details["methods"]
    assert not hasattr(broken, "predcit")
    for name in ("_private", "__init__", "__class__", "__reduce__", "deeper.__globals__", "", "a b"):
        with pytest.raises((hostd.UnimplementedError, hostd.InvalidArgumentError)):
            broken.call(name)
    endless = []
    endless.append(endless)
    wrong = [
        *[(lambda a=a: broken.one(*a), r"one\(x, \*, scale=1\)") for a in ((), (1, 2, 3))],
        *[(lambda k=k: broken.one(1, **k), r"one\(x, \*, scale=1\)") for k in ({"sclae": 2}, {"x": 2})],
        (broken.generate, r"model\.stream\.generate"),
        (lambda: list(broken.stream.one(1)), r"model\.one"),
        *[(lambda v=v: broken.one(v), None) for v in (object(), {1, 2}, 2**80, endless, "\ud800")],
    ]
    for act, words in wrong:
        with pytest.raises(hostd.InvalidArgumentError, match=words):
            act()
    with pytest.raises(hostd.ModelError, match="strange"):
        broken.strange()
    before = broken.info.errors
    with pytest.raises(hostd.ModelError, match="no column 'age'") as caught:
        broken.predict("age")
    assert caught.value.status is hostd.Status.UNKNOWN
    frames = [line for line in caught.value.traceback.splitlines() if line.lstrip().startswith("File ")]
    assert len(frames) == 2, "only the model's own frames are shown"
    assert all("model.py" in frame for frame in frames)
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.index("model.py") < shown.index("direct cause"), "where nobody catches it, too"
    assert broken.info.errors == before + 1
    stream = broken.stream.generate()
    assert next(stream) == 1
    with pytest.raises(hostd.ModelError, match="out of words"):
        next(stream)
    assert list(stream) == []
    assert broken.one(2) == 2


def test_options_that_the_model_does_not_take_or_that_cannot_be_are_refused(goes_on, model_dir):
    path = model_dir(BROKEN)
    with pytest.raises(hostd.InvalidArgumentError, match="fial"):
        goes_on.load_model("wrong", path, options={"fial": True})
    with pytest.raises(hostd.ModelError, match=r"weights\.bin is not there") as caught:
        goes_on.load_model("broken", path, options={"fail": True})
    assert "FileNotFoundError" in caught.value.traceback
    array = pytest.importorskip("numpy").arange(2000)
    for value in (array, [array], {"deep": (1, array)}, array[:2]):
        with pytest.raises(hostd.InvalidArgumentError, match="option 'a' has an array"):
            goes_on.load_model("m", path, options={"a": value})
    path = model_dir("def load(path, a):\n    return lambda: repr(a)[:3]\n")
    for number, value in enumerate(([1, {"b": 2}], b"x" * 100_000, (1, None))):
        first = goes_on.load_model(f"m{number}", path, options={"a": value})
        assert first() == repr(value)[:3]


def test_an_id_that_is_no_text_is_refused_by_every_verb(goes_on, model_dir):
    for model_id in (None, 7, b"x", ["a"], {"a": 1}):
        for verb in ("retrieve_model", "unload_model", "get_model", "explain_model", "model_logs"):
            with pytest.raises(hostd.InvalidArgumentError, match="model_id"):
                getattr(goes_on, verb)(model_id)
        with pytest.raises(hostd.InvalidArgumentError, match="model_id"):
            goes_on.load_model(model_id, model_dir())
    for verb in ("retrieve_model", "get_model", "get_model_size", "explain_model"):
        with pytest.raises(hostd.NotFoundError, match="nobody"):
            getattr(goes_on, verb)("nobody")


def test_an_unusual_id_works_in_everything(goes_on, model_dir):
    path = model_dir(
        "print('hello')\nclass M:\n    def predict(self, x):\n        return x\ndef load(path):\n    return M()\n"
    )
    for model_id in ("ü" * 100, "日本語" * 20, "a/" * 200 + "a", "a b", "x.log", "100%"):
        assert goes_on.load_model(model_id, path).predict(1) == 1
        assert [info.id for info in goes_on.list_models()] == [model_id]
        assert goes_on.explain_model(model_id)["state"] == "READY"
        assert goes_on.unload_model(model_id).processes == 1
        eventually(lambda model_id=model_id: goes_on.model_logs(model_id).endswith("hello\n"), "it is in the log")


def test_a_fifo_a_device_and_a_file_that_is_no_model_do_not_hang_the_host(goes_on, tmp_path):
    os.mkfifo(tmp_path / "model.py")
    os.mkdir(tmp_path / "settings")
    os.mkfifo(tmp_path / "settings" / "model.yaml")
    for path in (tmp_path / "model.py", tmp_path / "settings", "/dev/zero", "/dev/null"):
        with at_most(SOON_S, f"a load of {path}"), pytest.raises(hostd.HostError):
            goes_on.load_model("unknown", path, timeout_s=4)
    junk = {
        "m.joblib": ("joblib", b"\x80\x04junk"),
        "m.pkl": ("joblib", b""),
        "m.skops": ("skops", b"PK\x03\x04"),
        "m.onnx": ("onnxruntime", b"\x80\x04junk"),
    }
    for name, (library, content) in junk.items():
        if importlib.util.find_spec(library) is not None:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(hostd.HostError, match=name) as caught:
                goes_on.load_model("junk", tmp_path / name)
            assert caught.value.status in (hostd.Status.INVALID_ARGUMENT, hostd.Status.UNKNOWN)


SETTINGS = {
    "laoder: python": "loader",
    "loader: tenserflow": "tenserflow",
    "loader: no_such_module:load": "no_such_module",
    "python: /no/such/python": "python",
    "options: [1]": "options",
    "methods: [predict, fly]": "fly",
    "default_method: fly": "fly",
    "[": "line",
    "options: {n: 99999999999999999999999999}": "64 bit",
    'options: {text: "\\ud800"}': "options",
    "env: {PYTHONHOME: /nowhere}": "exit code 1",
}


def test_wrong_settings_are_refused_at_once(goes_on, model_dir, tmp_path):
    for settings, words in SETTINGS.items():
        with pytest.raises(hostd.HostError, match=words) as caught:
            goes_on.load_model("wrong", model_dir(settings=settings), timeout_s=PATIENCE_S)
        assert caught.value.status is not hostd.Status.DEADLINE_EXCEEDED
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "onnxruntime.py").write_text("raise ModuleNotFoundError('none', name='onnxruntime')\n")
    path = model_dir(settings=f"loader: onnx\nenv: {{PYTHONPATH: '{tmp_path}/hide'}}", files={"m.onnx": "x"})
    with pytest.raises(hostd.FailedPreconditionError, match=r"install it with.*onnx"):
        goes_on.load_model("onnx", path)
    for kind in ("finder", "initializer"):
        with pytest.raises(hostd.InvalidArgumentError, match=f"{kind} 'x'"):
            goes_on.load_model("m", model_dir(), **{kind: "x"})
