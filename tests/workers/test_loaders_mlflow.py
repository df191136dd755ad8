"""The mlflow loader, on real models saved here."""

import os
import subprocess
import sys
import textwrap
import warnings

import pytest
from helpers import REPOSITORY
from loading_rig import over_the_wire, refused

from hostd_workers.loaders.mlflow import load
from hostd_workers.wire.errors import FailedPreconditionError

pytest.importorskip("mlflow.pyfunc", reason="tests with real models")
np = pytest.importorskip("numpy", reason="arrays go in and come out")
pd = pytest.importorskip("pandas", reason="columns by name are data frames")

import mlflow  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec  # noqa: E402

pytestmark = pytest.mark.heavy_loader

SOURCE = """
    import mlflow
    import pandas as pd

    class Model(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            self.factor = (context.model_config or {{}}).get("factor", 1)

        @mlflow.trace
        def predict(self, context, model_input, params=None):
            {body}

    mlflow.models.set_model(Model())
"""
SUM = "return (model_input['age'] + model_input['size']) * self.factor * (params or {}).get('times', 1)"
COLUMNS = Schema([ColSpec("double", "age"), ColSpec("double", "size")])
TIMES = ParamSchema([ParamSpec("times", "double", 1.0)])
SIGNATURE = ModelSignature(inputs=COLUMNS, outputs=Schema([ColSpec("double")]), params=TIMES)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The loader sets variables for the whole process, which is a worker's right, not a test's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def save(directory, body=SUM, signature=SIGNATURE, **options):
    directory.mkdir(exist_ok=True)
    source = directory / "source.py"
    source.write_text(textwrap.dedent(SOURCE).format(body=body))
    path = directory / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice to authors: to give type hints, to give an example
        mlflow.pyfunc.save_model(path, python_model=str(source), signature=signature, pip_requirements=[], **options)
    return str(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("mlflow"), model_config={"factor": 2})


@pytest.fixture(scope="module")
def model(saved):
    return load(saved).model


def test_columns_records_and_rows_reach_the_model_as_a_data_frame(saved, model):
    result = load(saved)
    assert (result.methods, result.default) == (("predict", "describe"), "predict")
    found = result.model.predict({"size": [1.0, 2.0], "age": np.array([10.0, 20.0])})
    assert over_the_wire(found).tolist() == [22.0, 44.0]
    rows = np.array([[10.0, 1.0], [20.0, 2.0]])
    for data in ([{"size": 1.0, "age": 10.0}, {"age": 20.0, "size": 2.0}], rows, rows.tolist()):
        assert model.predict(data).tolist() == [22.0, 44.0]
    assert "age" in repr(result.model)


def test_params_and_configuration_reach_the_model_which_says_what_it_takes(saved, model):
    data = {"age": [1.0], "size": [1.0]}
    assert load(saved, model_config={"factor": 10}).model.predict(data, {"times": 2.0}).tolist() == [40.0]
    assert model.predict(data, params={"times": 3.0}).tolist() == [12.0]
    refused("model_config must be a map", load, saved, model_config=[1])
    about = over_the_wire(model.describe())
    assert about["flavors"] == ["python_function"]
    assert '"age"' in about["signature"]["inputs"]


@pytest.mark.parametrize(
    ("data", "params", "says"),
    [
        ({"age": [1.0]}, None, "missing inputs"),
        ({"age": ["x"], "size": [1.0]}, None, "Incompatible input types"),
        ([{"age": 1.0}], None, "missing inputs"),
        ([{"age": 1.0, "size": 1.0}, {"age": 1.0}], None, "the record 1 must have the columns"),
        ({"age": [1.0], "size": [1.0, 2.0]}, None, "equal length"),
        ([[1.0, 2.0, 3.0]], None, r"has the columns \['age', 'size'\], got rows of 3"),
        (np.ones((2, 1)), None, "got rows of 1"),
        ([[1.0, 2.0], [1.0]], None, "equal length"),
        ("text", None, "mlflow refused"),
        ({"age": [1.0], "size": [1.0]}, {"times": "x"}, "mlflow refused"),
        ({"age": [1.0], "size": [1.0]}, [1], "params must be a map"),
    ],
)
def test_wrong_input_is_the_callers_error(model, data, params, says):
    refused(says, model.predict, data, params)


def test_an_error_of_the_model_passes_through(tmp_path):
    model = load(save(tmp_path, "raise KeyError('the model')")).model
    with pytest.raises(KeyError, match="the model"):
        model.predict({"age": [1.0], "size": [1.0]})


def test_a_model_without_a_signature_gets_what_was_passed(tmp_path):
    model = load(save(tmp_path, "return [type(model_input).__name__, model_input]", signature=None)).model
    assert model.predict([1, 2]) == ["list", [1, 2]]
    assert model.predict(np.ones((1, 2)))[0] == "ndarray"
    assert model.predict({"a": 1}) == ["dict", {"a": 1}]
    assert model.predict({"a": [1, 2]})[0] == "DataFrame"
    assert model.predict([{"role": "user"}]) == ["list", [{"role": "user"}]]


def test_tensors_by_name_stay_tensors(tmp_path):
    signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2), "x")]))
    model = load(save(tmp_path, "return {name: x * 2 for name, x in model_input.items()}", signature)).model
    x = np.ones((3, 2), "float32")
    assert np.array_equal(model.predict({"x": x})["x"], x * 2)
    refused("mlflow refused", model.predict, {"x": x[:, :1]})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return pd.DataFrame({'n': [1, 2], 's': ['a', 'b']})", {"n": [1, 2], "s": ["a", "b"]}),
        ("return pd.Series([1.5, 2.5])", [1.5, 2.5]),
        ("return model_input.to_numpy()", [[1.0, 2.0]]),
        ("return ['text']", ["text"]),
    ],
)
def test_results_travel(tmp_path, body, expected):
    result = over_the_wire(load(save(tmp_path, body)).model.predict({"age": [1.0], "size": [2.0]}))
    if isinstance(result, dict):
        result = {name: column.tolist() for name, column in result.items()}
    assert (result.tolist() if hasattr(result, "tolist") else result) == expected


def test_nothing_is_asked_of_the_network_or_written(saved, tmp_path):
    script = """
        import socket, sys
        asked = []
        def refuse(*arguments, **_):
            asked.append(arguments)
            raise OSError("no network here")
        socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
        from hostd_workers.loaders.mlflow import load
        print(load(sys.argv[1]).model.predict({"age": [1.0], "size": [2.0]}).tolist(), asked)
        from mlflow.telemetry.utils import is_telemetry_disabled
        print(is_telemetry_disabled())
    """
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), saved],
        # Nothing else: under pytest or in a CI, as it sees in the environment, MLflow reports nothing anyhow.
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.splitlines() == ["[6.0] []", "True"], done.stderr
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_file_and_a_missing_module_are_named(tmp_path):
    for content in ("", "no: model", "{", "- 1", "flavors: {}"):
        (tmp_path / "MLmodel").write_text(content)
        refused(rf"{tmp_path.name} cannot be loaded", load, str(tmp_path))
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: gone_library.flavour\n")
    with pytest.raises(FailedPreconditionError, match="'gone_library'"):
        load(str(tmp_path))
