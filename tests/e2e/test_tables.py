"""Tables of pandas: refused with what to send instead, and that reaches a model that was fitted to a table."""

import pytest
from helpers import PATIENCE_S, program

import hostd

pd = pytest.importorskip("pandas", reason="its tables are sent")
pytest.importorskip("sklearn", reason="a model is fitted to a table")

FRAME = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "town": ["a", "b", "a", "b"]})

FITS = """
    import sys, joblib, pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "town": ["a", "b", "a", "b"]})
    columns = ColumnTransformer([("num", StandardScaler(), ["size"]), ("cat", OneHotEncoder(), ["town"])])
    joblib.dump(make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1]), sys.argv[1])
"""


def test_a_data_frame_is_refused_and_what_the_refusal_says_to_send_is_predicted_from(shared, tmp_path):
    with program(FITS, tmp_path / "m.joblib") as writer:  # a process of its own: it brings threads
        assert writer.wait(3 * PATIENCE_S) == 0
    model = shared.load_model("pipeline", tmp_path / "m.joblib")
    with pytest.raises(hostd.InvalidArgumentError, match=r'DataFrame cannot be sent: send df\.to_dict\("list"\)'):
        model.predict(FRAME)
    assert model.predict(FRAME.to_dict("list")).tolist() == [0, 1, 0, 1]
    assert model.predict(FRAME.to_dict("records")).tolist() == [0, 1, 0, 1]
    with pytest.raises(hostd.InvalidArgumentError, match=r"missing: \['size'\]; unknown: \['height'\]") as caught:
        model.predict({"height": [1.0], "town": ["a"]})
    assert caught.value.details["columns"] == ["size", "town"]
