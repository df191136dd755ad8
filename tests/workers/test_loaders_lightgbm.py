"""The lightgbm loader, on real boosters trained and saved here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.lightgbm import load
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

lightgbm = pytest.importorskip("lightgbm", reason="tests with real boosters")
np = pytest.importorskip("numpy", reason="arrays go in and come out")

pytestmark = pytest.mark.heavy_loader

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
Y = (X[:, 0] > 0).astype(int)
NAMES = ["age", "size", "price"]
QUIET = {"objective": "binary", "num_threads": 1, "verbose": -1, "min_data_in_leaf": 2, "num_leaves": 4}


def trained(data=X, names=NAMES, **options):
    return lightgbm.train(QUIET, lightgbm.Dataset(data, Y, feature_name=names, **options), 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    file = tmp_path_factory.mktemp("booster") / "model.txt"
    trained().save_model(file)
    return file


@pytest.fixture(scope="module")
def expected(saved):
    return lightgbm.Booster(model_file=saved).predict(X, num_threads=1)


@pytest.fixture
def model(saved):
    return load(str(saved), threads=1).model


def test_a_text_file_predicts_as_the_booster_in_process(saved, expected):
    for path in (saved, saved.parent):
        result = load(str(path), threads=1)
        assert (result.methods, result.default) == (("predict", "describe"), "predict")
        assert np.array_equal(result.model.predict(X), expected)
    assert np.array_equal(decode(*encode(result.model.predict(X))), expected)
    assert "features=3, trees=4" in repr(result.model)
    assert result.model.describe() == {"features": 3, "feature_names": NAMES, "categories": {}, "trees": 4}


def test_the_number_of_threads_is_what_the_host_allots_unless_told_otherwise(saved, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert load(str(saved)).model._settings == {}
    monkeypatch.setenv("HOSTD_CPU_THREADS", "1")
    assert load(str(saved)).model._settings == {"num_threads": 1}
    assert load(str(saved), threads=2).model._settings == {"num_threads": 2}


def test_rows_come_as_lists_or_columns_by_name_in_any_order(model, expected):
    assert np.array_equal(model.predict(X.tolist()), expected)
    columns = {"price": X[:, 2], "age": X[:, 0].tolist(), "size": X[:, 1]}
    assert np.array_equal(model.predict(columns), expected)
    records = [dict(zip(("price", "age", "size"), row, strict=True)) for row in X[:, [2, 0, 1]].tolist()]
    assert np.array_equal(model.predict(records), expected)
    assert np.array_equal(model.predict([[None, 1, 2]]), model.predict([[float("nan"), 1, 2]]))


def test_the_options_of_a_prediction_are_the_boosters(model, expected):
    margins = model.predict(X, raw_score=True)
    assert np.allclose(1 / (1 + np.exp(-margins)), expected)
    assert model.predict(X, pred_leaf=True).shape == (200, 4)
    assert model.predict(X, pred_contrib=True).shape == (200, 4)
    first = model.predict(X, num_iteration=1)
    assert np.allclose(model.predict(X, start_iteration=0, num_iteration=1), first)
    assert not np.array_equal(first, expected)


def test_a_column_of_categories_takes_them_by_name(tmp_path):
    pandas = pytest.importorskip("pandas", reason="trains on a data frame with categories")
    towns = pandas.Categorical(["here", "there"] * 100)
    frame = pandas.DataFrame({"age": X[:, 0], "town": towns, "size": X[:, 1]})
    labels = (towns.codes == 1).astype(int)
    booster = lightgbm.train(QUIET, lightgbm.Dataset(frame, labels), 4)
    booster.save_model(tmp_path / "m.txt")
    model = load(str(tmp_path), threads=1).model
    assert model.describe()["categories"] == {"town": ["here", "there"]}
    expected = booster.predict(frame, num_threads=1)
    columns = {"town": list(towns), "age": X[:, 0], "size": X[:, 1]}
    assert np.array_equal(model.predict(columns), expected)
    assert np.array_equal(model.predict({**columns, "town": np.array(list(towns))}), expected)
    assert np.array_equal(model.predict(frame.to_dict("records")), expected)
    unknown = model.predict({"town": ["elsewhere"], "age": [0.0], "size": [0.0]})
    assert np.array_equal(unknown, model.predict({"town": [None], "age": [0.0], "size": [0.0]}))
    with pytest.raises(InvalidArgumentError, match="'town' must be a list of categories"):
        model.predict({"town": [["here"]], "age": [0.0], "size": [0.0]})


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (X[:, :2], {}, r"has 3 columns \(age, size, price\), got an array of shape \(200, 2\)"),
        (X[0], {}, "rows of numbers"),
        ([["a", "b", "c"]], {}, "rows of numbers"),
        ("text", {}, "rows of numbers"),
        ({"age": [1.0]}, {}, "has the columns"),
        ({"age": [1.0], "size": [1.0], "price": [1.0, 2.0]}, {}, "equal length"),
        (X, {"num_iteration": "many"}, "lightgbm refused"),
    ],
)
def test_wrong_input_is_the_callers_error(model, data, options, says):
    with pytest.raises(InvalidArgumentError, match=says):
        model.predict(data, **options)


@pytest.mark.parametrize("content", [b"", b"this is no model", b"tree\nversion=v4\n", b"tree\nend of trees\n"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "m.txt").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"m\.txt cannot be loaded"):
        load(str(tmp_path))


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


def test_a_file_that_ends_within_its_trees_is_refused_and_does_not_abort_the_process(saved, tmp_path):
    # In a process of its own: LightGBM itself calls std::terminate over some of these.
    import textwrap

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CUTS), saved, tmp_path / "cut.txt"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout.strip().rpartition("\n")[2]) == (0, "all refused"), done.stderr


def test_a_tree_that_was_changed_in_length_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    (tmp_path / "m.txt").write_bytes(content.replace(b"shrinkage=1\n", b"shrinkage=10\n", 1))
    with pytest.raises(InvalidArgumentError, match="only a part of one"):
        load(str(tmp_path))


def test_a_file_without_sizes_of_trees_is_read_as_older_ones_are(saved, tmp_path, expected):
    lines = saved.read_text().splitlines(keepends=True)
    (tmp_path / "m.txt").write_text("".join(line for line in lines if not line.startswith("tree_sizes=")))
    assert np.array_equal(load(str(tmp_path), threads=1).model.predict(X), expected)


def test_wrong_options_and_missing_things_are_typed_errors(saved, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="threads must be a number"):
        load(str(saved), threads=0)
    with pytest.raises(NotFoundError, match="absent"):
        load(str(tmp_path / "absent.txt"))
    with pytest.raises(InvalidArgumentError, match=r"no \*\.txt"):
        load(str(tmp_path))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingDependencyError, match=r"'lightgbm'.*install it with.*lightgbm"):
        load(str(saved))
