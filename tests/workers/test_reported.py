"""What the libraries of models report of inputs and outputs, on real models."""

import pytest
from reported_rig import known

from hostd_workers.api import Signature
from hostd_workers.loaders._common.reported import reported


def test_a_model_that_cannot_be_asked_is_loaded_all_the_same():
    def ask():
        raise RuntimeError("a property of the model's")

    assert reported(ask) == {}
    assert reported(lambda: {"f": Signature()}) == {"f": Signature()}


class TestEstimators:
    @pytest.fixture
    def fitted(self, tmp_path):
        joblib = pytest.importorskip("joblib", reason="real estimators")
        from hostd_workers.loaders.sklearn import load

        def saved_and_loaded(estimator):
            joblib.dump(estimator, tmp_path / "model.joblib")
            return load(str(tmp_path / "model.joblib"))

        return saved_and_loaded

    def test_of_arrays(self, fitted):
        linear = pytest.importorskip("sklearn.linear_model", reason="real estimators")
        rows, classes = [[0.0, 1.0], [1.0, 0.0], [1.0, 2.0]], [0, 1, 1]
        served = fitted(linear.LogisticRegression().fit(rows, classes))
        assert known(served) == ([("X", "FP64", (-1, 2), False)], [("predict", "INT64", (-1,), False)], "array", 0)
        proba = served.signatures["predict_proba"]
        assert (proba.outputs[0].datatype, proba.outputs[0].shape) == ("FP64", (-1, 2))
        assert "score" not in served.signatures, "it takes more than features"
        served = fitted(linear.LinearRegression().fit(rows, classes))
        assert known(served)[1] == [("predict", "FP64", None, False)]

    def test_of_columns_by_name(self, fitted):
        pandas = pytest.importorskip("pandas", reason="columns by name")
        tree = pytest.importorskip("sklearn.tree", reason="real estimators")
        table = pandas.DataFrame({"age": [1, 2], "size": [0.5, 0.1]})
        served = fitted(tree.DecisionTreeClassifier().fit(table, ["no", "yes"]))
        columns = [("age", "", (-1,), False), ("size", "", (-1,), False)]
        assert known(served) == (columns, [("predict", "BYTES", (-1,), False)], "map", 0)

    def test_of_texts_and_of_maps(self, fitted):
        extraction = pytest.importorskip("sklearn.feature_extraction", reason="real estimators")
        from sklearn.feature_extraction.text import CountVectorizer

        served = fitted(CountVectorizer().fit(["a text", "another one"]))
        assert known(served) == ([("X", "BYTES", (-1,), False)], [("transform", "", None, False)], "array", 0)
        assert known(fitted(extraction.DictVectorizer().fit([{"a": 1}]))) is None

    def test_of_several_outputs(self, fitted):
        tree = pytest.importorskip("sklearn.tree", reason="real estimators")
        served = fitted(tree.DecisionTreeClassifier().fit([[0], [1]], [[0, 1], [1, 0]]))
        assert known(served)[1] == [("predict", "", None, False)]


class TestSessions:
    def test_of_an_onnx_model(self, tmp_path):
        onnx = pytest.importorskip("onnx", reason="builds a model")
        pytest.importorskip("onnxruntime", reason="a real session")
        from onnx_models import save

        from hostd_workers.loaders.onnx import load

        kind = onnx.TensorProto
        two = [("a", kind.FLOAT, ["rows", 3]), ("b", kind.FLOAT, ["rows", 3])]
        file = save(tmp_path / "sum.onnx", [("Add", ["a", "b"], ["c"])], two, [("c", kind.FLOAT, ["rows", 3])])
        inputs = [("a", "FP32", (-1, 3), False), ("b", "FP32", (-1, 3), False)]
        assert known(load(file)) == (inputs, [("c", "FP32", (-1, 3), False)], "keywords", 0)
        one = [("a", kind.STRING, [2])]
        file = save(tmp_path / "id.onnx", [("Identity", ["a"], ["c"])], one, [("c", kind.STRING, [2])])
        assert known(load(file)) == ([("a", "BYTES", (2,), False)], [("c", "BYTES", (2,), False)], "array", None)
