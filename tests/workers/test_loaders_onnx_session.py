"""Opening ONNX models: files, session options, providers, and what is refused."""

from pathlib import Path

import pytest
from loading_rig import refused

from hostd_workers.loaders.onnx import load
from hostd_workers.wire.errors import FailedPreconditionError

onnx = pytest.importorskip("onnx", reason="builds the models of these tests")
ort = pytest.importorskip("onnxruntime", reason="tests with real sessions")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import made, save  # noqa: E402

FLOAT = TensorProto.FLOAT


def negation(file):
    return save(file, [("Neg", ["a"], ["y"])], [("a", FLOAT, [1])], [("y", FLOAT, [1])])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return negation(tmp_path_factory.mktemp("onnx") / "negation.onnx")


def test_session_options_reach_the_session(file):
    session = load(
        file,
        providers=["CPUExecutionProvider"],
        intra_op_num_threads=1,
        inter_op_num_threads=2,
        graph_optimization_level="basic",
        session_options={
            "execution_mode": "ORT_PARALLEL",
            "enable_mem_pattern": False,
            "logid": "mine",
            "session.intra_op.allow_spinning": "0",
        },
    ).model._session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 2)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.enable_mem_pattern is False
    assert options.logid == "mine"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_session_uses_the_threads_that_the_host_allots_unless_told_otherwise(file, monkeypatch):
    def threads(**options):
        return load(file, **options).model._session.get_session_options().intra_op_num_threads

    assert threads() == 0, "onnxruntime's own default"
    monkeypatch.setenv("HOSTD_CPU_THREADS", "1")
    assert threads() == 1
    assert threads(intra_op_num_threads=2) == 2
    assert threads(session_options={"intra_op_num_threads": 2}) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intra_op_num_threads": "two"}, "intra_op_num_threads takes a number from 0 on, got 'two'"),
        ({"intra_op_num_threads": True}, "takes a number"),
        ({"inter_op_num_threads": -1}, "takes a number from 0 on, got -1"),
        ({"graph_optimization_level": "most"}, "one of disable, basic, extended, layout, all; got 'most'"),
        ({"graph_optimization_level": 99}, "one of disable"),
        ({"session_options": ["enable_mem_pattern"]}, "must be a map of names"),
        ({"session_options": {1: 2}}, "must be a map of names"),
        ({"session_options": {"enable_mem_patern": False}}, "did you mean 'enable_mem_pattern'"),
        ({"session_options": {"zzz": False}}, "known are .*enable_profiling"),
        ({"session_options": {"add_initializer": 1}}, "no session option"),
        ({"session_options": {"enable_mem_pattern": 3}}, "takes bool, got 3"),
        ({"session_options": {"execution_mode": "fast"}}, "one of ORT_SEQUENTIAL, ORT_PARALLEL"),
        ({"session_options": {"session.intra_op.allow_spinning": 0}}, "takes a string, got 0"),
        ({"session_options": {"log_severity_level": 99}}, "refused its options.*severity"),
        ({"providers": "CPUExecutionProvider"}, "must be a list"),
        ({"providers": []}, "must be a list"),
        ({"providers": ["NoSuchProvider"]}, "no provider 'NoSuchProvider' here; it has .*CPUExecutionProvider"),
        ({"providers": [["CPUExecutionProvider"]]}, "a provider is a name or"),
        ({"providers": [3]}, "a provider is a name or"),
    ],
)
def test_a_wrong_option_says_what_is_right(file, options, words):
    refused(words, load, file, **options)


def test_a_provider_may_have_options(file):
    model = load(file, providers=[["CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}]]).model
    assert model.describe()["providers"] == ["CPUExecutionProvider"]


def test_by_default_only_providers_that_need_no_decision_start(file, monkeypatch):
    opened = {}
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda *args, **kwargs: opened.update(kwargs) or real(*args, **kwargs))
    remote = ["TensorrtExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: remote)
    assert load(file).model.describe()["providers"] == ["CPUExecutionProvider"]
    assert opened == {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}


def test_a_provider_that_does_not_start_is_not_replaced_quietly(file, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda _: ["CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(FailedPreconditionError, match="could not start CUDAExecutionProvider"),
    ):
        load(file, providers=["CUDAExecutionProvider"])


def test_an_onnx_file_in_a_directory_is_found(tmp_path):
    negation(tmp_path / "a.onnx")
    assert load(str(tmp_path)).model.predict([2]).tolist() == [-2.0]
    negation(tmp_path / "b.onnx")
    refused(r"a\.onnx, b\.onnx", load, str(tmp_path))
    assert load(str(tmp_path), file="b.onnx").model.predict([2]).tolist() == [-2.0]


def test_a_damaged_file_or_an_unknown_operator_is_refused_with_the_librarys_words(tmp_path, file):
    content = Path(file).read_bytes()
    damaged = tmp_path / "m.onnx"
    for part in (b"", b"this is no model", content[: len(content) // 2]):
        damaged.write_bytes(part)
        refused(r"cannot be loaded: (.*ONNXRuntimeError|it is empty|it ends too early)", load, str(damaged))
    nodes = [helper.make_node("NoSuchOp", ["a"], ["y"], domain="my.domain")]
    ports = ([helper.make_tensor_value_info(name, FLOAT, [1])] for name in ("a", "y"))
    refused("NoSuchOp", load, made(damaged, nodes, *ports, **{"my.domain": 1}))
