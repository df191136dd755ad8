"""What the libraries of models report of inputs and outputs, on real models of big frameworks."""

import os
import warnings

import pytest
from reported_rig import known

pytestmark = pytest.mark.heavy_loader


class TestBoosters:
    @pytest.fixture(params=["xgboost", "lightgbm"])
    def library(self, request):
        return pytest.importorskip(request.param, reason="real boosters")

    def test_of_names_and_without(self, library, tmp_path):
        numpy = pytest.importorskip("numpy", reason="real boosters")
        rows = numpy.random.default_rng(0).normal(size=(60, 2)).astype("float32")
        classes = (rows[:, 0] > 0).astype(int)
        for names in (["age", "size"], None):
            if library.__name__ == "xgboost":
                from hostd_workers.loaders.xgboost import load

                file, kind, shape = tmp_path / "model.ubj", "FP32", None
                library.train({"nthread": 1}, library.DMatrix(rows, classes, feature_names=names), 2).save_model(file)
            else:
                from hostd_workers.loaders.lightgbm import load

                file, kind, shape = tmp_path / "model.txt", "FP64", (-1,)
                data = library.Dataset(rows, classes, feature_name=names or "auto")
                library.train({"num_threads": 1, "verbose": -1, "min_data_in_leaf": 2}, data, 2).save_model(file)
            outputs = [("predict", kind, shape, False)]
            if names:
                assert known(load(str(file))) == ([(name, kind, (-1,), False) for name in names], outputs, "map", 0)
            else:
                assert known(load(str(file))) == ([("data", kind, (-1, 2), False)], outputs, "array", 0)


class TestMlflow:
    @pytest.mark.parametrize("has_names", [True, False])
    def test_of_its_signature(self, tmp_path, has_names, monkeypatch):
        pytest.importorskip("mlflow.pyfunc", reason="real models")
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        from hostd_workers.loaders.mlflow import load

        monkeypatch.setattr(os, "environ", os.environ.copy())
        columns = [
            ColSpec("double", "age" if has_names else None),
            ColSpec("double", "size" if has_names else None, required=not has_names),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice to authors
            signature = ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("long")]))
            source = tmp_path / "source.py"
            source.write_text(
                "import mlflow\nclass M(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input):\n"
                "        return [1]\nmlflow.models.set_model(M())\n"
            )
            mlflow.pyfunc.save_model(tmp_path / "m", python_model=str(source), signature=signature, pip_requirements=[])
        inputs = [("data", "FP64", (-1, 2), False)]
        if has_names:
            inputs = [("age", "FP64", (-1,), False), ("size", "FP64", (-1,), True)]
        passing = "map" if has_names else "array"
        assert known(load(str(tmp_path / "m"))) == (inputs, [("output", "INT64", (-1,), False)], passing, 0)


class TestTorch:
    pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")

    def test_of_programs_and_scripts(self, tmp_path):
        torch = pytest.importorskip("torch", reason="real modules")
        from hostd_workers.loaders.torch import load

        class Net(torch.nn.Module):
            def forward(self, x: torch.Tensor, times: int = 2) -> torch.Tensor:
                return x * times

        torch.jit.save(torch.jit.script(Net()), str(tmp_path / "net.pt"))
        inputs = [("x", "", None, False), ("times", "INT64", (), True)]
        assert known(load(str(tmp_path / "net.pt"))) == (inputs, [], "keywords", None)
        for dtype, datatype in ((torch.float32, "FP32"), (torch.bfloat16, "BF16")):
            rows = torch.zeros(2, 3, dtype=dtype)
            shapes = {"x": {0: torch.export.Dim("rows")}}
            program = torch.export.export(torch.nn.Identity(), (rows,), dynamic_shapes=({0: shapes["x"][0]},))
            torch.export.save(program, str(tmp_path / "net.pt2"))
            (found,), _, passing, axis = known(load(str(tmp_path / "net.pt2")))
            assert (found[1:], passing, axis) == ((datatype, (-1, 3), False), "array", 0)


def test_of_pipelines_by_their_task(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="real models")
    pytest.importorskip("torch", reason="transformers computes with PyTorch")
    from transformers_models import bert, save, save_gpt

    from hostd_workers.loaders.transformers import load

    monkeypatch.setattr(os, "environ", os.environ.copy())
    texts = ([("inputs", "BYTES", (-1,), False)], [], "array", 0)
    assert known(load(str(save(bert(), tmp_path / "bert")))) == texts
    served = load(str(save_gpt(tmp_path / "gpt")))
    assert known(served) == texts
    assert served.signatures["generate"].inputs[0].name == "prompt"
