"""The xgboost loader, on real boosters trained and saved here."""

from __future__ import annotations

import json
import sys

import pytest

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.xgboost import SUFFIXES, load
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

xgboost = pytest.importorskip("xgboost", reason="tests with real boosters")
np = pytest.importorskip("numpy", reason="arrays go in and come out")

pytestmark = pytest.mark.heavy_loader

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype("float32")
Y = (X[:, 0] > 0).astype(int)
NAMES = ["age", "size", "price"]
QUIET = {"nthread": 1, "objective": "binary:logistic"}


@pytest.fixture(scope="module")
def booster():
    return xgboost.train(QUIET, xgboost.DMatrix(X, Y, feature_names=NAMES), 4)


@pytest.fixture(scope="module")
def expected(booster):
    return booster.predict(xgboost.DMatrix(X, feature_names=NAMES))


@pytest.fixture(scope="module", params=SUFFIXES)
def saved(request, booster, tmp_path_factory):
    file = tmp_path_factory.mktemp("booster") / f"model{request.param}"
    # Not save_model, which warns of the old suffix.
    file.write_bytes(booster.save_raw("json" if request.param == ".json" else "ubj"))
    return file


def test_every_suffix_predicts_as_the_booster_in_process(saved, expected):
    result = load(str(saved.parent), threads=1)
    assert (result.methods, result.default) == (("predict", "describe"), "predict")
    assert np.array_equal(result.model.predict(X), expected)
    assert np.array_equal(decode(*encode(result.model.predict(X))), expected)
    assert "features=3, rounds=4" in repr(result.model)


def test_a_json_model_under_the_old_suffix_is_read(booster, expected, tmp_path):
    (tmp_path / "m.xgb").write_bytes(booster.save_raw("json"))
    assert np.array_equal(load(str(tmp_path)).model.predict(X), expected)


def test_the_number_of_threads_is_what_the_host_allots_unless_told_otherwise(saved, monkeypatch):
    def threads(**options):
        config = json.loads(load(str(saved), **options).model._booster.save_config())
        return config["learner"]["generic_param"]["nthread"]

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads() == "0", "XGBoost's own default"
    monkeypatch.setenv("HOSTD_CPU_THREADS", "1")
    assert threads() == "1"
    assert threads(threads=2) == "2"


@pytest.fixture(scope="module")
def model(booster, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "m.ubj"
    booster.save_model(file)
    return load(str(file), threads=1).model


def test_rows_come_as_lists_or_columns_by_name_in_any_order(model, expected):
    assert np.array_equal(model.predict(X.tolist()), expected)
    columns = {"price": X[:, 2], "age": X[:, 0].tolist(), "size": X[:, 1]}
    assert np.array_equal(model.predict(columns), expected)
    records = [dict(zip(("price", "age", "size"), row, strict=True)) for row in X[:, [2, 0, 1]].tolist()]
    assert np.array_equal(model.predict(records), expected)
    missing = model.predict([[None, 1.0, 2.0]])
    assert np.array_equal(missing, model.predict([[float("nan"), 1.0, 2.0]]))
    assert not np.array_equal(missing, model.predict([[-5.0, 1.0, 2.0]]))
    assert np.array_equal(model.predict({"age": [None], "size": [1.0], "price": [2.0]}), missing)


def test_a_model_that_never_knew_names_takes_arrays_only(tmp_path):
    unnamed = xgboost.train(QUIET, xgboost.DMatrix(X, Y), 2)
    unnamed.save_model(tmp_path / "m.json")
    model = load(str(tmp_path)).model
    assert model.predict(X).shape == (60,)
    assert model.describe()["feature_names"] is None
    with pytest.raises(InvalidArgumentError, match="does not know its columns' names"):
        model.predict({"a": [1.0]})
    with pytest.raises(InvalidArgumentError, match="pass an array of 3 columns"):
        model.predict([{"a": 1.0}])


def test_the_options_of_a_prediction_are_the_boosters(model, booster):
    rows = xgboost.DMatrix(X, feature_names=NAMES)
    assert np.array_equal(model.predict(X, output_margin=True), booster.predict(rows, output_margin=True))
    assert model.predict(X, pred_leaf=True).shape == (60, 4)
    assert model.predict(X, pred_contribs=True).shape == (60, 4)
    assert model.predict(X, pred_interactions=True).shape == (60, 4, 4)
    assert model.predict(X, strict_shape=True).shape == (60, 1)
    assert np.array_equal(model.predict(X, iteration_range=[0, 2]), booster.predict(rows, iteration_range=(0, 2)))


def test_a_category_is_its_number(tmp_path):
    types = ["c", "q", "q"]
    rows = np.column_stack([Y, X[:, 1:]])
    xgboost.train(
        QUIET, xgboost.DMatrix(rows, Y, feature_names=NAMES, feature_types=types, enable_categorical=True), 3
    ).save_model(tmp_path / "m.json")
    model = load(str(tmp_path)).model
    assert (model.predict(rows) > 0.5).astype(int).tolist() == Y.tolist()
    assert model.describe()["feature_types"] == types


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (X[:, :2], {}, r"has 3 columns \(age, size, price\), got an array of shape \(60, 2\)"),
        (X[0], {}, r"rows of numbers.*got float32 of shape \(3,\)"),
        (np.array([["a", "b", "c"]]), {}, "rows of numbers"),
        (np.array([["a", 1, None]], dtype=object), {}, "rows of numbers"),
        ([["a", "b", "c"]], {}, "rows of numbers"),
        ([[1.0], [1.0, 2.0]], {}, "rows of numbers"),
        ("text", {}, "rows of numbers.*got str"),
        (None, {}, "got NoneType"),
        (
            {"age": [1.0]},
            {},
            r"has the columns \['age', 'size', 'price'\], got \['age'\] \(missing: \['size', 'price'\]\)",
        ),
        ([{"age": 1.0}, {"size": 1.0}], {}, r"the record 1 must have the columns \['age'\], got \['size'\]"),
        ({"age": [1.0], "size": [1.0], "price": [1.0, 2.0]}, {}, "equal length"),
        ({"age": ["x"], "size": [1.0], "price": [1.0]}, {}, "column 'age' must be a list or array of numbers"),
        ({"age": 1.0, "size": 1.0, "price": 1.0}, {}, "column 'age' must be an array or a list"),
        (X, {"iteration_range": 3}, "iteration_range must be two numbers"),
        (X, {"iteration_range": [0, 99]}, "xgboost refused"),
    ],
)
def test_wrong_input_is_the_callers_error(model, data, options, says):
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        model.predict(data, **options)
    assert "Stack trace" not in caught.value.message


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"this is no model", b'{"learner": 1}', b"{L"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, suffix, content):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=rf"m\{suffix} cannot be loaded") as caught:
        load(str(tmp_path))
    assert "Stack trace" not in caught.value.message


def test_a_file_cut_short_anywhere_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    file = tmp_path / saved.name
    for size in range(0, len(content) - 1, 131):
        file.write_bytes(content[:size])
        with pytest.raises(InvalidArgumentError, match="cannot be loaded"):
            load(str(file))


def test_wrong_options_and_missing_things_are_typed_errors(saved, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="threads must be a number"):
        load(str(saved), threads=0)
    with pytest.raises(NotFoundError, match="absent"):
        load(str(tmp_path / "absent.json"))
    with pytest.raises(InvalidArgumentError, match=r"no \*\.ubj"):
        load(str(tmp_path))
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingDependencyError, match=r"'xgboost'.*install it with.*xgboost"):
        load(str(saved))
