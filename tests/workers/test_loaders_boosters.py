"""The loaders of XGBoost and LightGBM, on real boosters trained and saved here."""

import json
import subprocess
import sys
import textwrap

import pytest
from loading_rig import cut_short, over_the_wire, refused

from hostd_workers.loaders.lightgbm import load as load_lightgbm
from hostd_workers.loaders.xgboost import SUFFIXES
from hostd_workers.loaders.xgboost import load as load_xgboost

xgboost = pytest.importorskip("xgboost", reason="tests with real boosters")
lightgbm = pytest.importorskip("lightgbm", reason="tests with real boosters")
np = pytest.importorskip("numpy", reason="arrays go in and come out")
pandas = pytest.importorskip("pandas", reason="trains on a data frame with categories")

pytestmark = pytest.mark.heavy_loader

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3)).astype("float32")
Y = (X[:, 0] > 0).astype(int)
NAMES = ["age", "size", "price"]
XGBOOST = {"nthread": 1, "objective": "binary:logistic"}
LIGHTGBM = {"objective": "binary", "num_threads": 1, "verbose": -1, "min_data_in_leaf": 2, "num_leaves": 4}
LOADS = {"lightgbm": load_lightgbm, "xgboost": load_xgboost}


@pytest.fixture(scope="module")
def boosters():
    return {
        "xgboost": xgboost.train(XGBOOST, xgboost.DMatrix(X, Y, feature_names=NAMES), 4),
        "lightgbm": lightgbm.train(LIGHTGBM, lightgbm.Dataset(X, Y, feature_name=NAMES), 4),
    }


@pytest.fixture(scope="module")
def files(boosters, tmp_path_factory):
    """A file of each kind, in a directory of its own."""
    made = {}
    for suffix in (".txt", *SUFFIXES):
        made[suffix] = tmp_path_factory.mktemp("booster") / f"model{suffix}"
        if suffix == ".txt":
            boosters["lightgbm"].save_model(made[suffix])
        else:  # not save_model, which warns of the old suffix
            made[suffix].write_bytes(boosters["xgboost"].save_raw("json" if suffix == ".json" else "ubj"))
    return made


@pytest.fixture(scope="module")
def expected(boosters):
    """What the boosters predict in process; LightGBM's from its file, whose numbers are rounded."""
    found = boosters["xgboost"].predict(xgboost.DMatrix(X, feature_names=NAMES))
    text = boosters["lightgbm"].model_to_string()
    return {"xgboost": found, "lightgbm": lightgbm.Booster(model_str=text).predict(X, num_threads=1)}


@pytest.fixture(params=LOADS)
def kind(request):
    return request.param


@pytest.fixture
def load(kind):
    return LOADS[kind]


@pytest.fixture
def saved(kind, files):
    return files[".txt" if kind == "lightgbm" else ".ubj"]


@pytest.fixture
def model(load, saved):
    return load(str(saved), threads=1).model


@pytest.mark.parametrize("suffix", [".txt", *SUFFIXES])
def test_every_suffix_predicts_as_the_booster_in_process(files, expected, suffix):
    kind = "lightgbm" if suffix == ".txt" else "xgboost"
    for path in (files[suffix], files[suffix].parent):
        result = LOADS[kind](str(path), threads=1)
        assert (result.methods, result.default) == (("predict", "describe"), "predict")
        assert np.array_equal(result.model.predict(X), expected[kind])
    assert np.array_equal(over_the_wire(result.model.predict(X)), expected[kind])
    assert ("features=3, trees=4" if kind == "lightgbm" else "features=3, rounds=4") in repr(result.model)
    assert result.model.describe()["feature_names"] == NAMES


def test_the_number_of_threads_is_what_the_host_allots_unless_told_otherwise(kind, load, saved, monkeypatch):
    def threads(**options):
        model = load(str(saved), **options).model
        if kind == "lightgbm":
            return str(model._settings.get("num_threads", 0))
        return json.loads(model._booster.save_config())["learner"]["generic_param"]["nthread"]

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads() == "0", "the library's own default"
    monkeypatch.setenv("HOSTD_CPU_THREADS", "1")
    assert (threads(), threads(threads=2)) == ("1", "2")


def test_rows_come_as_lists_or_columns_by_name_in_any_order(kind, model, expected):
    columns = {"price": X[:, 2], "age": X[:, 0].tolist(), "size": X[:, 1]}
    records = [dict(zip(("price", "age", "size"), row, strict=True)) for row in X[:, [2, 0, 1]].tolist()]
    for data in (X.tolist(), columns, records):
        assert np.array_equal(model.predict(data), expected[kind])
    missing = model.predict([[None, 1.0, 2.0]])
    assert np.array_equal(missing, model.predict([[float("nan"), 1.0, 2.0]]))
    assert np.array_equal(missing, model.predict({"age": [None], "size": [1.0], "price": [2.0]}))
    assert kind == "lightgbm" or not np.array_equal(missing, model.predict([[-5.0, 1.0, 2.0]]))


ROWS, TABLE = "rows of numbers", {"age": [1.0], "size": [1.0], "price": [1.0]}
WRONG = {
    "too few columns": (X[:, :2], r"has 3 columns \(age, size, price\), got an array of shape \(200, 2\)"),
    "one row": (X[0], r"rows of numbers.*got float32 of shape \(3,\)"),
    "array of texts": (np.array([["a", "b", "c"]]), ROWS),
    "array of objects": (np.array([["a", 1, None]], dtype=object), ROWS),
    "texts": ([["a", "b", "c"]], ROWS),
    "rows of several lengths": ([[1.0], [1.0, 2.0]], ROWS),
    "text": ("text", "rows of numbers.*got str"),
    "nothing": (None, "got NoneType"),
    "too few names": ({"age": [1.0]}, r"has the columns \['age', 'size', 'price'\], got \['age'\] \(missing: \['size'"),
    "records": ([{"age": 1.0}, {"size": 1.0}], r"the record 1 must have the columns \['age'\], got \['size'\]"),
    "columns of several lengths": ({**TABLE, "price": [1.0, 2.0]}, "equal length"),
    "a column of texts": ({**TABLE, "age": ["x"]}, "column 'age' must be a list or array of numbers"),
    "single values": (dict.fromkeys(TABLE, 1.0), "column 'age' must be an array or a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_the_callers_error(model, case):
    data, says = WRONG[case]
    assert "Stack trace" not in refused(says, model.predict, data).message


@pytest.mark.parametrize("suffix", [".txt", *SUFFIXES])
@pytest.mark.parametrize(
    "content", [b"", b"this is no model", b'{"learner": 1}', b"{L", b"tree\nversion=v4\n", b"tree\nend of trees\n"]
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path, suffix, content):
    (tmp_path / f"m{suffix}").write_bytes(content)
    load = LOADS["lightgbm" if suffix == ".txt" else "xgboost"]
    assert "Stack trace" not in refused(rf"m\{suffix} cannot be loaded", load, str(tmp_path)).message


# XGBoost


def test_a_json_model_under_the_old_suffix_is_read(boosters, expected, tmp_path):
    (tmp_path / "m.xgb").write_bytes(boosters["xgboost"].save_raw("json"))
    assert np.array_equal(load_xgboost(str(tmp_path)).model.predict(X), expected["xgboost"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_xgboost_file_cut_short_anywhere_is_refused(files, tmp_path, suffix):
    content = files[suffix].read_bytes()
    for path in cut_short(tmp_path / f"m{suffix}", content, range(0, len(content) - 1, 131)):
        refused("cannot be loaded", load_xgboost, path)


def test_a_model_that_never_knew_names_takes_arrays_only(tmp_path):
    xgboost.train(XGBOOST, xgboost.DMatrix(X, Y), 2).save_model(tmp_path / "m.json")
    model = load_xgboost(str(tmp_path)).model
    assert model.predict(X).shape == (200,)
    assert model.describe()["feature_names"] is None
    refused("does not know its columns' names", model.predict, {"a": [1.0]})
    refused("pass an array of 3 columns", model.predict, [{"a": 1.0}])


def test_the_options_of_an_xgboost_prediction_are_the_boosters(files, boosters):
    model, booster = load_xgboost(str(files[".ubj"]), threads=1).model, boosters["xgboost"]
    rows = xgboost.DMatrix(X, feature_names=NAMES)
    assert np.array_equal(model.predict(X, output_margin=True), booster.predict(rows, output_margin=True))
    assert np.array_equal(model.predict(X, iteration_range=[0, 2]), booster.predict(rows, iteration_range=(0, 2)))
    shapes = {
        "pred_leaf": (200, 4),
        "pred_contribs": (200, 4),
        "pred_interactions": (200, 4, 4),
        "strict_shape": (200, 1),
    }
    assert {option: model.predict(X, **{option: True}).shape for option in shapes} == shapes
    refused("iteration_range must be two numbers", model.predict, X, iteration_range=3)
    refused("xgboost refused", model.predict, X, iteration_range=[0, 99])


def test_a_category_of_xgboost_is_its_number(tmp_path):
    types = ["c", "q", "q"]
    rows = np.column_stack([Y, X[:, 1:]])
    data = xgboost.DMatrix(rows, Y, feature_names=NAMES, feature_types=types, enable_categorical=True)
    xgboost.train(XGBOOST, data, 3).save_model(tmp_path / "m.json")
    model = load_xgboost(str(tmp_path)).model
    assert (model.predict(rows) > 0.5).astype(int).tolist() == Y.tolist()
    assert model.describe()["feature_types"] == types


# LightGBM


def test_the_options_of_a_lightgbm_prediction_are_the_boosters(files, expected):
    model = load_lightgbm(str(files[".txt"]), threads=1).model
    assert model.describe() == {"features": 3, "feature_names": NAMES, "categories": {}, "trees": 4}
    assert np.allclose(1 / (1 + np.exp(-model.predict(X, raw_score=True))), expected["lightgbm"])
    assert model.predict(X, pred_leaf=True).shape == model.predict(X, pred_contrib=True).shape == (200, 4)
    first = model.predict(X, num_iteration=1)
    assert np.allclose(model.predict(X, start_iteration=0, num_iteration=1), first)
    assert not np.array_equal(first, expected["lightgbm"])
    refused("lightgbm refused", model.predict, X, num_iteration="many")


def test_a_column_of_categories_of_lightgbm_takes_them_by_name(tmp_path):
    towns = pandas.Categorical(["here", "there"] * 100)
    frame = pandas.DataFrame({"age": X[:, 0], "town": towns, "size": X[:, 1]})
    booster = lightgbm.train(LIGHTGBM, lightgbm.Dataset(frame, (towns.codes == 1).astype(int)), 4)
    booster.save_model(tmp_path / "m.txt")
    model = load_lightgbm(str(tmp_path), threads=1).model
    assert model.describe()["categories"] == {"town": ["here", "there"]}
    columns = {"town": list(towns), "age": X[:, 0], "size": X[:, 1]}
    for data in (columns, {**columns, "town": np.array(list(towns))}, frame.to_dict("records")):
        assert np.array_equal(model.predict(data), booster.predict(frame, num_threads=1))
    one = {"age": [0.0], "size": [0.0]}
    assert np.array_equal(model.predict({"town": ["elsewhere"], **one}), model.predict({"town": [None], **one}))
    refused("'town' must be a list of categories", model.predict, {"town": [["here"]], **one})


CUTS = """
    import sys
    from hostd_workers.loaders.lightgbm import load
    from hostd_workers.wire.errors import InvalidArgumentError

    source, file = sys.argv[1:]
    content = open(source, "rb").read()
    for size in range(0, content.index(b"end of trees"), 41):
        with open(file, "wb") as cut:
            cut.write(content[:size])
        try:
            load(file, threads=1)
        except InvalidArgumentError as error:
            assert "cannot be loaded" in error.message, error
        else:
            sys.exit(f"a file cut at {size} was loaded")
    print("all refused")
"""


def test_a_lightgbm_file_that_ends_within_its_trees_is_refused_and_does_not_abort_the_process(files, tmp_path):
    # In a process of its own: LightGBM itself calls std::terminate over some of these.
    command = [sys.executable, "-c", textwrap.dedent(CUTS), files[".txt"], tmp_path / "cut.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip().rpartition("\n")[2]) == (0, "all refused"), done.stderr


def test_a_lightgbm_tree_that_was_changed_in_length_is_refused_and_one_without_sizes_is_read(files, tmp_path, expected):
    content = files[".txt"].read_bytes()
    (tmp_path / "m.txt").write_bytes(content.replace(b"shrinkage=1\n", b"shrinkage=10\n", 1))
    refused("only a part of one", load_lightgbm, str(tmp_path))
    lines = [line for line in content.splitlines(keepends=True) if not line.startswith(b"tree_sizes=")]
    (tmp_path / "m.txt").write_bytes(b"".join(lines))
    assert np.array_equal(load_lightgbm(str(tmp_path), threads=1).model.predict(X), expected["lightgbm"])
