"""What methods take and return, from the model to its record, also when the model is evicted."""

import pytest

import hostd

HINTED = """
class Model:
    def predict(self, pixels: list, top_k: int = 1) -> list[int]:
        return [top_k]
    def other(self, x):
        return x
def load(path):
    return Model()
"""
SIGNATURE = """
signature:
  other:
    inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]
    passing: array
    batch_axis: 0
"""


def test_the_record_of_a_model_says_what_its_methods_take(shared, model_dir):
    model = shared.load_model("m", model_dir(HINTED, settings=SIGNATURE))
    predict, other = model.methods["predict"], model.methods["other"]
    assert predict.inputs == (hostd.TensorInfo("pixels"), hostd.TensorInfo("top_k", "INT64", (), optional=True))
    assert predict.outputs == (hostd.TensorInfo("output", "INT64", (-1,)),)
    assert (predict.known_from, predict.passing) == ("declared", "keywords")
    assert other.inputs == (hostd.TensorInfo("x", "FP32", (-1, 4)),)
    assert (other.passing, other.batch_axis) == ("array", 0)
    assert [listed.methods for listed in shared.list_models() if listed.id == "m"] == [model.methods]


def test_a_signature_that_does_not_fit_the_model_fails_its_load(shared, model_dir):
    path = model_dir("def load(path):\n    return lambda x: x\n", settings=SIGNATURE)
    with pytest.raises(
        hostd.InvalidArgumentError, match=r"signature in model.yaml names the method 'other'; the model has __call__"
    ):
        shared.load_model("m", path)
