"""The sklearn loader, on real estimators trained and saved here."""

from __future__ import annotations

import inspect
import sys
import zipfile

import pytest

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.sklearn import SUFFIXES, load
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

np = pytest.importorskip("numpy", reason="scikit-learn works on NumPy arrays")
pytest.importorskip("sklearn", reason="tests with real estimators")
joblib = pytest.importorskip("joblib", reason="tests with real joblib files")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.feature_extraction import DictVectorizer  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.neighbors import KernelDensity, NearestNeighbors  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def classifier():
    return LogisticRegression().fit(X, Y)


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    file = tmp_path_factory.mktemp("classifier") / "model.joblib"
    joblib.dump(classifier, file)
    return file


def dumped(directory, estimator, name="model.joblib"):
    joblib.dump(estimator, directory / name)
    return str(directory)


def served(directory, estimator):
    return load(dumped(directory, estimator))


def over_the_wire(value):
    return decode(*encode(value))


@pytest.mark.parametrize("by_directory", [False, True])
def test_a_joblib_file_predicts_as_the_estimator_in_process(saved, classifier, by_directory):
    result = load(str(saved.parent if by_directory else saved))
    assert result.default == "predict"
    assert np.array_equal(result.model.predict(X), classifier.predict(X))
    assert np.array_equal(result.model.predict_proba(X), classifier.predict_proba(X))
    assert np.array_equal(result.model.predict(X[:2].tolist()), classifier.predict(X[:2]))
    assert np.array_equal(result.model.predict(X=X), classifier.predict(X))
    assert "LogisticRegression" in repr(result.model)
    assert result.model.classes_.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.JOBLIB"])
def test_every_suffix_of_pickled_files_is_read(tmp_path, classifier, name):
    result = load(dumped(tmp_path, classifier, name))
    assert np.array_equal(result.model.predict(X), classifier.predict(X))


def test_a_compressed_file_is_read(tmp_path, classifier):
    joblib.dump(classifier, tmp_path / "m.joblib", compress=3)
    assert load(str(tmp_path)).default == "predict"


def test_methods_are_those_that_the_estimator_really_has(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    assert "predict_proba" not in served(tmp_path / "a", SVC().fit(X, Y)).methods
    assert "decision_function" in load(str(tmp_path / "a")).methods
    scaler = served(tmp_path / "b", StandardScaler().fit(X))
    assert (scaler.methods, scaler.default) == (("transform", "inverse_transform"), "transform")
    density = served(tmp_path / "c", KernelDensity().fit(X))
    assert density.default == "score_samples"
    neighbours = served(tmp_path / "d", NearestNeighbors(n_neighbors=2).fit(X))
    distances, indices = over_the_wire(neighbours.model.kneighbors(X[:1]))
    assert distances[0, 0] == 0
    assert indices[0, 0] == 0


def test_methods_keep_their_signature_and_documentation(saved):
    model = load(str(saved)).model
    assert str(inspect.signature(model.predict)) == "(X)"
    assert "Predict class labels" in inspect.getdoc(model.predict)
    assert model.predict is model.predict
    assert not hasattr(model, "no_such_method")
    assert {"predict", "predict_proba", "classes_"} <= set(dir(model))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: model.predict(), r"predict has the signature \(X\): missing a required argument"),
        (lambda model: model.predict(X, 3), "too many positional"),
        (lambda model: model.predict(X=X, y=3), "unexpected keyword argument 'y'"),
        (lambda model: model.predict("text"), "predict refused its input: .*2D array"),
        (lambda model: model.predict([["a", "b", "c"]]), "refused its input: .*numeric"),
        (lambda model: model.predict(X[0]), "refused its input: Expected 2D array, got 1D"),
        (lambda model: model.predict(X[:, :2]), "refused its input: X has 2 features"),
        (lambda model: model.predict(X * np.nan), "refused its input: Input X contains NaN"),
        (lambda model: model.predict(None), "refused its input"),
    ],
)
def test_wrong_arguments_are_the_callers_error(saved, call, words):
    with pytest.raises(InvalidArgumentError, match=words):
        call(load(str(saved)).model)


def test_errors_of_the_model_itself_pass_through(tmp_path):
    for name in ("unfitted", "raising"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="not fitted"):
        served(tmp_path / "unfitted", LogisticRegression()).model.predict(X)
    with pytest.raises(TypeError, match="unsupported operand"):
        served(tmp_path / "raising", FunctionTransformer(raising)).model.transform(X)


def raising(x):
    return x + object()


def test_results_can_travel_whatever_the_estimator_returns(tmp_path):
    for name in ("labels", "mixed", "sparse", "multi"):
        (tmp_path / name).mkdir()
    words = np.array(["no", "yes"], dtype=object)[Y]
    labels = served(tmp_path / "labels", DecisionTreeClassifier().fit(X, words)).model.predict(X[:4])
    assert over_the_wire(labels).tolist() == words[:4].tolist()
    mixed = served(tmp_path / "mixed", FunctionTransformer()).model
    assert over_the_wire(mixed.transform(np.array([["a", 1], [None, 2.5]], dtype=object))) == [["a", 1], [None, 2.5]]
    sparse = served(tmp_path / "sparse", OneHotEncoder().fit(Y.reshape(-1, 1))).model.transform([[0], [1]])
    assert over_the_wire(sparse).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    multi = served(tmp_path / "multi", DecisionTreeClassifier().fit(X, np.column_stack([Y, Y]))).model
    assert [part.shape for part in over_the_wire(multi.predict_proba(X))] == [(40, 2), (40, 2)]


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2 has strings of variable width")
def test_strings_of_variable_width_travel(tmp_path):
    words = np.array(["a", "bcd"], dtype=np.dtypes.StringDType())
    result = over_the_wire(served(tmp_path, FunctionTransformer()).model.transform(words))
    assert (result.dtype.kind, result.tolist()) == ("U", ["a", "bcd"])


def test_a_map_of_columns_becomes_a_data_frame_in_the_order_of_the_fit(tmp_path):
    pandas = pytest.importorskip("pandas", reason="columns by name are data frames")
    frame = pandas.DataFrame({"size": X[:, 0], "town": ["a", "b"] * 20})
    encoder = ColumnTransformer([("num", StandardScaler(), ["size"]), ("cat", OneHotEncoder(), ["town"])])
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame, Y)
    model = served(tmp_path, pipeline).model
    given = {"town": ["a", "b"] * 20, "size": X[:, 0].tolist()}
    assert np.array_equal(model.predict(given), pipeline.predict(frame))
    assert np.array_equal(model.predict(X=given), pipeline.predict(frame))
    with pytest.raises(InvalidArgumentError, match=r"\['size', 'town'\], got \['town'\]"):
        model.predict({"town": ["a"]})
    with pytest.raises(InvalidArgumentError, match="equal length"):
        model.predict({"town": ["a"], "size": [1, 2]})


@pytest.fixture(scope="module")
def towns():
    """A table with a column of numbers and one of names, and a pipeline that was fitted to it."""
    pandas = pytest.importorskip("pandas", reason="columns by name are data frames")
    frame = pandas.DataFrame({"size": X[:, 0], "town": ["a", "b"] * 20})
    encoder = ColumnTransformer([("num", StandardScaler(), ["size"]), ("cat", OneHotEncoder(), ["town"])])
    return frame, make_pipeline(encoder, LogisticRegression()).fit(frame, Y)


def test_records_become_a_data_frame_where_columns_have_names(tmp_path, towns):
    frame, pipeline = towns
    names = ("pipeline", "tree", "hidden")
    for name in names:
        (tmp_path / name).mkdir()
    numbers = frame[["size"]].assign(rank=X[:, 1])
    tree = DecisionTreeClassifier().fit(numbers, Y)
    hidden = make_pipeline(FunctionTransformer(), pipeline[0], LogisticRegression()).fit(frame, Y)
    for name, estimator, table in zip(names, (pipeline, tree, hidden), (frame, numbers, frame), strict=True):
        model = served(tmp_path / name, estimator).model
        records = over_the_wire(table[list(reversed(table.columns))].to_dict("records"))
        columns = over_the_wire(table.to_dict("list"))  # what the refusal of a data frame says to send
        assert np.array_equal(model.predict(records), estimator.predict(table))
        assert np.array_equal(model.predict(columns), estimator.predict(table))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"size": 1.0}], r"the record 0 must have the columns \['size', 'town'\], got \['size'\]; None says"),
        ([{"size": 1.0, "town": "a"}, {"size": 1.0, "city": "a"}], r"the record 1 must have .* got \['size', 'city'\]"),
        ({"size": [1.0], "city": ["a"]}, r"\(missing: \['town'\]; unknown: \['city'\]\)"),
        ([[1.0, "a"]], "only supported for dataframes"),
        ({"size": [1.0], "town": ["c"]}, r"Found unknown categories \['c'\]"),
        ({"size": ["x"], "town": ["a"]}, "could not convert string to float"),
        (np.zeros((1, 5)), "X has 5 features"),
        (np.zeros((1, 2, 2)), "2D NumPy array"),
        ({"size": 1.0, "town": "a"}, "Expected 2D array"),
    ],
)
def test_wrong_columns_are_the_callers_error_and_the_right_ones_are_named(tmp_path, towns, data, words):
    model = served(tmp_path, towns[1]).model
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        model.predict(over_the_wire(data))
    assert caught.value.details["columns"] == ["size", "town"]
    assert "'size', 'town'" in caught.value.message
    if "refused its input" in caught.value.message:
        assert caught.value.message.endswith("the columns ['size', 'town'], as a map of columns or a list of records")


def test_a_model_without_names_says_how_many_features_it_takes(saved):
    model = load(str(saved)).model
    with pytest.raises(InvalidArgumentError, match=r"its input: (.|\n)*; the model takes rows of 3 features") as caught:
        model.predict([{"a": 1.0}])
    assert caught.value.details == {"features": 3}


def test_what_transform_returned_is_not_compared_with_what_it_takes(tmp_path):
    scaler = served(tmp_path, StandardScaler().fit(X)).model
    with pytest.raises(InvalidArgumentError, match="refused its input") as caught:
        scaler.inverse_transform("text")
    assert "features" not in caught.value.message.partition(":")[2]


def test_a_vectorizer_gets_records_and_texts_as_they_are(tmp_path):
    for name in ("records", "texts", "old"):
        (tmp_path / name).mkdir()
    records = [{"town": "a", "size": 1.0}, {"size": 2.0}]
    model = served(
        tmp_path / "records", make_pipeline(DictVectorizer(), LogisticRegression()).fit(records, [0, 1])
    ).model
    assert over_the_wire(model.predict(records)).tolist() == [0, 1]
    for wrong in ([1], [["a"]], 3, []):
        with pytest.raises(InvalidArgumentError, match="refused its input"):
            model.predict(wrong)
    texts = ["good day", "bad night"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1])
    model = served(tmp_path / "texts", pipeline).model
    assert over_the_wire(model.predict(texts)).tolist() == [0, 1]
    for wrong in ({"text": texts}, [{"text": "good"}], [1], 3, "good day"):
        with pytest.raises(InvalidArgumentError, match=r"takes a list of texts|refused its input"):
            model.predict(wrong)
    del pipeline[0]._tfidf
    with pytest.raises(
        AttributeError, match="_tfidf"
    ):  # of a file that another version saved: not the caller's to mend
        served(tmp_path / "old", pipeline).model.predict(texts)


def test_a_data_frame_result_travels_as_its_values(tmp_path):
    pytest.importorskip("pandas", reason="the result is a data frame")
    model = served(tmp_path, StandardScaler().set_output(transform="pandas").fit(X)).model
    assert np.allclose(over_the_wire(model.transform(X)), StandardScaler().fit_transform(X))


def test_columns_without_pandas_say_what_is_missing(saved, monkeypatch):
    model = load(str(saved)).model
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FailedPreconditionError, match=f"{sys.executable} does not have; install it with: .* pandas$"):
        model.predict({"a": [1.0]})


def test_a_map_of_single_values_stays_a_sample(tmp_path):
    model = served(tmp_path, DictVectorizer().fit([{"town": "a", "size": 1.0}])).model
    assert over_the_wire(model.transform({"town": "a", "size": 2.0})).tolist() == [[2.0, 1.0]]


def test_the_option_file_chooses_among_several(tmp_path, classifier):
    dumped(tmp_path, classifier, "a.joblib")
    dumped(tmp_path, LinearRegression().fit(X, Y), "b.joblib")
    with pytest.raises(InvalidArgumentError, match=r"a\.joblib, b\.joblib.*option file"):
        load(str(tmp_path))
    assert "predict_proba" in load(str(tmp_path), file="a.joblib").methods
    assert "predict_proba" not in load(str(tmp_path), file="b.joblib").methods


@pytest.mark.parametrize("file", ["../a.joblib", "/etc/passwd", "", 3, "a/../../b.joblib"])
def test_the_option_file_stays_inside_the_directory(tmp_path, file):
    with pytest.raises(InvalidArgumentError, match="inside"):
        load(str(tmp_path), file=file)


def test_what_is_not_there_or_of_another_kind_is_a_typed_error(tmp_path, saved):
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.joblib").touch()
    with pytest.raises(InvalidArgumentError, match=r"no \*\.joblib"):
        load(str(tmp_path))
    with pytest.raises(NotFoundError, match=r"no file x\.joblib"):
        load(str(tmp_path), file="x.joblib")
    with pytest.raises(NotFoundError, match="absent"):
        load(str(tmp_path / "absent.joblib"))
    with pytest.raises(InvalidArgumentError, match=r"not .*notes\.txt"):
        load(str(tmp_path / "notes.txt"))
    with pytest.raises(InvalidArgumentError, match="needs a directory"):
        load(str(saved), file="model.joblib")
    with pytest.raises(InvalidArgumentError, match="no path"):
        load(None)


def test_a_file_that_may_not_be_read_is_a_typed_error(saved, monkeypatch):
    monkeypatch.setattr("hostd_workers.loaders._common.opening.os.access", lambda *_: False)  # root may read everything
    with pytest.raises(FailedPreconditionError, match="may not read"):
        load(str(saved))


def test_an_object_without_methods_says_what_it_is(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"holds a dict, which has no predict.*model\.py"):
        served(tmp_path, {"model": 1})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_refused_with_the_librarys_words(tmp_path, suffix):
    if suffix == ".skops":
        pytest.importorskip("skops", reason="reads skops files")
    (tmp_path / f"m{suffix}").write_bytes(b"this is no model")
    with pytest.raises(InvalidArgumentError, match=r"cannot be loaded: \w+: \w+"):
        load(str(tmp_path))


def test_a_file_cut_short_anywhere_is_refused(tmp_path, saved):
    content = saved.read_bytes()
    file = tmp_path / "m.joblib"
    for size in [0, 1, *range(2, len(content), 23)]:
        file.write_bytes(content[:size])
        with pytest.raises(InvalidArgumentError, match="cannot be loaded"):
            load(str(file))


class Custom:
    def predict(self, x):
        return x


def test_a_file_that_needs_a_missing_module_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Custom, "__module__", "gone_library.nets")
    fake = type(sys)("gone_library.nets")
    fake.Custom = Custom
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gone_library", type(sys)("gone_library"))
        patch.setitem(sys.modules, "gone_library.nets", fake)
        directory = dumped(tmp_path, Custom())
    with pytest.raises(FailedPreconditionError, match="gone_library"):
        load(directory)
    monkeypatch.setattr(Custom, "__module__", "xgboost.sklearn")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "xgboost", type(sys)("xgboost"))
        patch.setitem(sys.modules, "xgboost.sklearn", fake)
        directory = dumped(tmp_path, Custom())
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingDependencyError, match=r"install it with.*xgboost"):
        load(directory)


class TooLarge:
    def __setstate__(self, state):
        raise MemoryError


def test_running_out_of_memory_is_not_the_files_fault(tmp_path):
    model = TooLarge()
    model.weights = 1
    with pytest.raises(MemoryError):
        served(tmp_path, model)


@pytest.mark.parametrize("library", ["sklearn", "joblib"])
def test_a_missing_library_names_the_extra(saved, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"'{library}'.*install it with.*(\[sklearn\]|scikit-learn)"):
        load(str(saved))


@pytest.fixture
def skops(tmp_path):
    io = pytest.importorskip("skops.io", reason="writes and reads skops files")

    def save(estimator):
        io.dump(estimator, tmp_path / "m.skops")
        return str(tmp_path)

    return save


def test_a_skops_file_predicts_as_the_estimator_in_process(skops, classifier):
    result = load(skops(classifier))
    assert np.array_equal(result.model.predict(X), classifier.predict(X))


def shifted(x):
    return x + 1


def test_untrusted_types_in_a_skops_file_are_listed_and_refused_unless_trusted(skops):
    directory = skops(FunctionTransformer(shifted))
    with pytest.raises(InvalidArgumentError, match=r"does not trust: .*shifted.*trusted") as caught:
        load(directory)
    names = caught.value.details["untrusted"]
    assert np.array_equal(load(directory, trusted=names).model.transform(X), X + 1)
    assert load(directory, trusted=[*names, "another.type"]).default == "transform"
    with pytest.raises(InvalidArgumentError, match="does not trust"):
        load(directory, trusted=["another.type"])


@pytest.mark.parametrize("trusted", [True, "builtins.eval", [1], {"a": 1}, None])
def test_trusted_must_be_a_list_of_names(skops, classifier, trusted):
    with pytest.raises(InvalidArgumentError, match="trusted must be a list"):
        load(skops(classifier), trusted=trusted)


def test_trusted_is_refused_for_a_pickled_file(saved):
    with pytest.raises(InvalidArgumentError, match="runs its code in any case"):
        load(str(saved), trusted=["a.b"])


def test_a_zip_file_that_is_no_skops_file_is_refused(tmp_path):
    pytest.importorskip("skops", reason="reads skops files")
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(InvalidArgumentError, match="cannot be loaded"):
        load(str(tmp_path))


def test_missing_skops_names_the_extra(skops, classifier, monkeypatch):
    directory = skops(classifier)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(MissingDependencyError, match=r"skops.*install it with.*(\[sklearn\]|scikit-learn)"):
        load(directory)
