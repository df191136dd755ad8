"""The sklearn loader, on real estimators trained and saved here."""

import inspect
import itertools
import sys
import zipfile

import pytest
from loading_rig import cut_short, over_the_wire, refused

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.sklearn import SUFFIXES, load
from hostd_workers.wire.errors import FailedPreconditionError, NotFoundError

np = pytest.importorskip("numpy", reason="scikit-learn works on NumPy arrays")
pytest.importorskip("sklearn", reason="tests with real estimators")
joblib = pytest.importorskip("joblib", reason="tests with real joblib files")
pandas = pytest.importorskip("pandas", reason="columns by name are data frames")
skops_io = pytest.importorskip("skops.io", reason="writes and reads skops files")

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
TOWNS = ["a", "b"] * 20


@pytest.fixture(scope="module")
def classifier():
    return LogisticRegression().fit(X, Y)


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    file = tmp_path_factory.mktemp("classifier") / "model.joblib"
    joblib.dump(classifier, file)
    return file


@pytest.fixture(scope="module")
def model(saved):
    return load(str(saved)).model


@pytest.fixture
def served(tmp_path):
    """Save an estimator, and return what the loader makes of it."""
    count = itertools.count()

    def save_and_load(estimator):
        file = tmp_path / f"{next(count)}.joblib"
        joblib.dump(estimator, file)
        return load(str(file))

    return save_and_load


@pytest.fixture(scope="module")
def towns():
    """A table with a column of numbers and one of names, and a pipeline that was fitted to it."""
    frame = pandas.DataFrame({"size": X[:, 0], "town": TOWNS})
    encoder = ColumnTransformer([("num", StandardScaler(), ["size"]), ("cat", OneHotEncoder(), ["town"])])
    return frame, make_pipeline(encoder, LogisticRegression()).fit(frame, Y)


@pytest.mark.parametrize("by_directory", [False, True])
def test_a_joblib_file_predicts_as_the_estimator_in_process(saved, classifier, by_directory):
    result = load(str(saved.parent if by_directory else saved))
    assert result.default == "predict"
    assert np.array_equal(result.model.predict_proba(X), classifier.predict_proba(X))
    for found in (result.model.predict(X), result.model.predict(X.tolist()), result.model.predict(X=X)):
        assert np.array_equal(found, classifier.predict(X))
    assert "LogisticRegression" in repr(result.model)
    assert result.model.classes_.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.JOBLIB", "compressed.joblib", "m.skops"])
def test_every_kind_of_file_is_read(tmp_path, classifier, name):
    if name == "m.skops":
        skops_io.dump(classifier, tmp_path / name)
    else:
        joblib.dump(classifier, tmp_path / name, compress=3 if name.startswith("compressed") else 0)
    assert np.array_equal(load(str(tmp_path)).model.predict(X), classifier.predict(X))


def test_methods_are_those_that_the_estimator_really_has(served):
    vectors = served(SVC().fit(X, Y)).methods
    assert "decision_function" in vectors
    assert "predict_proba" not in vectors
    scaler = served(StandardScaler().fit(X))
    assert (scaler.methods, scaler.default) == (("transform", "inverse_transform"), "transform")
    assert served(KernelDensity().fit(X)).default == "score_samples"
    neighbours = served(NearestNeighbors(n_neighbors=2).fit(X)).model
    distances, indices = over_the_wire(neighbours.kneighbors(X[:1]))
    assert (distances[0, 0], indices[0, 0]) == (0, 0)
    refused(r"holds a dict, which has no predict.*model\.py", served, {"model": 1})


def test_methods_keep_their_signature_and_documentation(model):
    assert str(inspect.signature(model.predict)) == "(X)"
    assert "Predict class labels" in inspect.getdoc(model.predict)
    assert model.predict is model.predict
    assert not hasattr(model, "no_such_method")
    assert {"predict", "predict_proba", "classes_"} <= set(dir(model))


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, r"predict has the signature \(X\): missing a required argument"),
        ((X, 3), {}, "too many positional"),
        ((), {"X": X, "y": 3}, "unexpected keyword argument 'y'"),
        (("text",), {}, "predict refused its input: .*2D array"),
        (([["a", "b", "c"]],), {}, "refused its input: .*numeric"),
        ((X[0],), {}, "refused its input: Expected 2D array, got 1D"),
        ((X[:, :2],), {}, "refused its input: X has 2 features"),
        ((X * np.nan,), {}, "refused its input: Input X contains NaN"),
        ((None,), {}, "refused its input"),
    ],
)
def test_wrong_arguments_are_the_callers_error(model, args, kwargs, words):
    refused(words, model.predict, *args, **kwargs)


def raising(x):
    return x + object()


def test_errors_of_the_model_itself_pass_through(served):
    with pytest.raises(ValueError, match="not fitted"):
        served(LogisticRegression()).model.predict(X)
    with pytest.raises(TypeError, match="unsupported operand"):
        served(FunctionTransformer(raising)).model.transform(X)


def test_results_can_travel_whatever_the_estimator_returns(served):
    words = np.array(["no", "yes"], dtype=object)[Y]
    labels = served(DecisionTreeClassifier().fit(X, words)).model.predict(X[:4])
    assert over_the_wire(labels).tolist() == words[:4].tolist()
    identity = served(FunctionTransformer()).model
    mixed = [["a", 1], [None, 2.5]]
    assert over_the_wire(identity.transform(np.array(mixed, dtype=object))) == mixed
    sparse = served(OneHotEncoder().fit(Y.reshape(-1, 1))).model.transform([[0], [1]])
    assert over_the_wire(sparse).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    multi = served(DecisionTreeClassifier().fit(X, np.column_stack([Y, Y]))).model
    assert [part.shape for part in over_the_wire(multi.predict_proba(X))] == [(40, 2), (40, 2)]
    frames = served(StandardScaler().set_output(transform="pandas").fit(X)).model
    assert np.allclose(over_the_wire(frames.transform(X)), StandardScaler().fit_transform(X))
    if hasattr(np.dtypes, "StringDType"):  # NumPy 2 has strings of variable width
        result = over_the_wire(identity.transform(np.array(["a", "bcd"], dtype=np.dtypes.StringDType())))
        assert (result.dtype.kind, result.tolist()) == ("U", ["a", "bcd"])


# Columns


def test_columns_and_records_become_a_data_frame_where_columns_have_names(served, towns):
    frame, pipeline = towns
    numbers = frame[["size"]].assign(rank=X[:, 1])
    tree = DecisionTreeClassifier().fit(numbers, Y)
    hidden = make_pipeline(FunctionTransformer(), pipeline[0], LogisticRegression()).fit(frame, Y)
    for estimator, table in ((pipeline, frame), (tree, numbers), (hidden, frame)):
        model = served(estimator).model
        other_way_round = table[list(reversed(table.columns))]
        for kind in ("records", "list"):  # what the refusal of a data frame says to send
            data = over_the_wire(other_way_round.to_dict(kind))
            assert np.array_equal(model.predict(data), estimator.predict(table))
            assert np.array_equal(model.predict(X=data), estimator.predict(table))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"size": 1.0}], r"the record 0 must have the columns \['size', 'town'\], got \['size'\]; None says"),
        ([{"size": 1.0, "town": "a"}, {"size": 1.0, "city": "a"}], r"the record 1 must have .* got \['size', 'city'\]"),
        ({"size": [1.0], "city": ["a"]}, r"\(missing: \['town'\]; unknown: \['city'\]\)"),
        ({"town": ["a"]}, r"\['size', 'town'\], got \['town'\]"),
        ({"town": ["a"], "size": [1, 2]}, "equal length"),
        ([[1.0, "a"]], "only supported for dataframes"),
        ({"size": [1.0], "town": ["c"]}, r"Found unknown categories \['c'\]"),
        ({"size": ["x"], "town": ["a"]}, "could not convert string to float"),
        (np.zeros((1, 5)), "X has 5 features"),
        (np.zeros((1, 2, 2)), "2D NumPy array"),
        ({"size": 1.0, "town": "a"}, "Expected 2D array"),
    ],
)
def test_wrong_columns_are_the_callers_error_and_the_right_ones_are_named(served, towns, data, words):
    error = refused(words, served(towns[1]).model.predict, over_the_wire(data))
    if "equal length" in words:
        return
    assert error.details["columns"] == ["size", "town"]
    assert "'size', 'town'" in error.message
    if "refused its input" in error.message:
        assert error.message.endswith("the columns ['size', 'town'], as a map of columns or a list of records")


def test_a_model_without_names_says_how_many_features_it_takes(model, served):
    error = refused(
        r"its input: (.|\n)*; the model takes rows of 3 features", model.predict, over_the_wire([{"a": 1.0}])
    )
    assert error.details == {"features": 3}
    scaler = served(StandardScaler().fit(X)).model
    error = refused("refused its input", scaler.inverse_transform, "text")
    assert "features" not in error.message.partition(":")[2], "what transform returned is not what it takes"


def test_a_vectorizer_gets_records_and_texts_as_they_are(served):
    records = [{"town": "a", "size": 1.0}, {"size": 2.0}]
    model = served(make_pipeline(DictVectorizer(), LogisticRegression()).fit(records, [0, 1])).model
    assert over_the_wire(model.predict(records)).tolist() == [0, 1]
    for wrong in ([1], [["a"]], 3, []):
        refused("refused its input", model.predict, wrong)
    one = served(DictVectorizer().fit([{"town": "a", "size": 1.0}])).model
    assert over_the_wire(one.transform({"town": "a", "size": 2.0})).tolist() == [[2.0, 1.0]], "a sample, no columns"
    texts = ["good day", "bad night"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1])
    model = served(pipeline).model
    assert over_the_wire(model.predict(texts)).tolist() == [0, 1]
    for wrong in ({"text": texts}, [{"text": "good"}], [1], 3, "good day"):
        refused(r"takes a list of texts|refused its input", model.predict, wrong)
    del pipeline[0]._tfidf
    with pytest.raises(AttributeError, match="_tfidf"):  # of a file of another version: not the caller's to mend
        served(pipeline).model.predict(texts)


def test_columns_without_pandas_say_what_is_missing(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FailedPreconditionError, match=f"{sys.executable} does not have; install it with: .* pandas$"):
        model.predict({"a": [1.0]})


# Files


def test_the_option_file_chooses_among_several(tmp_path, classifier):
    joblib.dump(classifier, tmp_path / "a.joblib")
    joblib.dump(LinearRegression().fit(X, Y), tmp_path / "b.joblib")
    refused(r"a\.joblib, b\.joblib.*option file", load, str(tmp_path))
    assert "predict_proba" in load(str(tmp_path), file="a.joblib").methods
    assert "predict_proba" not in load(str(tmp_path), file="b.joblib").methods
    for outside in ("../a.joblib", "/etc/passwd", "", 3, "a/../../b.joblib"):
        refused("inside", load, str(tmp_path), file=outside)


def test_what_is_not_there_or_of_another_kind_is_a_typed_error(tmp_path, saved, monkeypatch):
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.joblib").touch()
    refused(r"no \*\.joblib", load, str(tmp_path))
    refused(r"not .*notes\.txt", load, str(tmp_path / "notes.txt"))
    refused("needs a directory", load, str(saved), file="model.joblib")
    with pytest.raises(NotFoundError, match=r"no file x\.joblib"):
        load(str(tmp_path), file="x.joblib")
    monkeypatch.setattr("hostd_workers.loaders._common.opening.os.access", lambda *_: False)  # root may read everything
    with pytest.raises(FailedPreconditionError, match="may not read"):
        load(str(saved))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_refused_with_the_librarys_words(tmp_path, suffix):
    (tmp_path / f"m{suffix}").write_bytes(b"this is no model")
    refused(r"cannot be loaded: \w+: \w+", load, str(tmp_path))


def test_a_file_cut_short_anywhere_is_refused(tmp_path, saved):
    content = saved.read_bytes()
    for path in cut_short(tmp_path / "m.joblib", content, [0, 1, *range(2, len(content), 23)]):
        refused("cannot be loaded", load, path)


class Custom:
    def predict(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        ("gone_library.nets", FailedPreconditionError, "gone_library"),
        ("xgboost.sklearn", MissingDependencyError, r"install it with.*xgboost"),
    ],
)
def test_a_file_that_needs_a_missing_module_names_it(tmp_path, monkeypatch, module, error, says):
    library = module.partition(".")[0]
    monkeypatch.setattr(Custom, "__module__", module)
    with monkeypatch.context() as patch:
        for name in (library, module):
            patch.setitem(sys.modules, name, type(sys)(name))
        sys.modules[module].Custom = Custom
        joblib.dump(Custom(), tmp_path / "m.joblib")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(error, match=says):
        load(str(tmp_path))


class TooLarge:
    def __setstate__(self, state):
        raise MemoryError


def test_running_out_of_memory_is_not_the_files_fault(served):
    model = TooLarge()
    model.weights = 1
    with pytest.raises(MemoryError):
        served(model)


# Skops


def shifted(x):
    return x + 1


def test_untrusted_types_in_a_skops_file_are_listed_and_refused_unless_trusted(tmp_path):
    file = str(tmp_path / "m.skops")
    skops_io.dump(FunctionTransformer(shifted), file)
    names = refused(r"does not trust: .*shifted.*trusted", load, file).details["untrusted"]
    assert np.array_equal(load(file, trusted=names).model.transform(X), X + 1)
    assert load(file, trusted=[*names, "another.type"]).default == "transform"
    refused("does not trust", load, file, trusted=["another.type"])


@pytest.mark.parametrize("trusted", [True, "builtins.eval", [1], {"a": 1}, None], ids=repr)
def test_trusted_must_be_a_list_of_names_and_is_for_skops_alone(saved, trusted):
    refused("trusted must be a list", load, str(saved), trusted=trusted)
    refused("runs its code in any case", load, str(saved), trusted=["a.b"])


def test_a_zip_file_that_is_no_skops_file_and_a_missing_skops(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("other.json", "{}")
    refused("cannot be loaded", load, str(tmp_path))
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(MissingDependencyError, match=r"skops.*install it with.*(\[sklearn\]|scikit-learn)"):
        load(str(tmp_path))
