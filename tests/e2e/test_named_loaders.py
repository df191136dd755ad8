"""A load that names its loader: files that nothing recognises, and more than what their model.yaml says."""

import pytest
from deploy_rig import await_tidy

import hostd

LOADERS = """
from pathlib import Path

class Words:
    def __init__(self, said):
        self._said = said

    def said(self):
        return self._said

def upper(path, mark="!"):
    return Words(Path(path, "words.txt").read_text().upper() + mark if path else "nothing" + mark)

def lower(path, **options):
    return Words(Path(path, "words.txt").read_text().lower() + str(options))
"""
FILES = {"words.txt": b"Hello"}


@pytest.fixture(autouse=True)
def _installed(install):
    install(words=LOADERS)


@pytest.fixture
def host():
    with hostd.Host(loaders={"loud": {"type": "words:upper", "config": {"mark": "!!"}}}) as host:
        yield host


@pytest.fixture
def client(host):
    return host.client()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "words.txt").write_text("Hello")
    return tmp_path / "model"


def test_files_that_nothing_recognises_are_loaded_by_the_loader_that_is_named(client, path):
    with pytest.raises(hostd.InvalidArgumentError, match="recognises no model"):
        client.load_model("m", path)
    model = client.load_model("m", path, loader="words:upper")
    assert (model.said(), model.info.loader) == ("HELLO!", "words:upper")
    assert client.load_model("m", path, loader="words:upper").already_loaded
    for loader in (None, "words:lower"):
        with pytest.raises(hostd.AlreadyExistsError, match=r"its loader is 'words:upper', not"):
            client.load_model("m", path, loader=loader)
    assert client.load_model("m", reload=True, options={"mark": "."}).said() == "HELLO."
    assert client.load_model("named", path, loader="loud").said() == "HELLO!!"
    assert client.load_model("without", loader="words:upper").said() == "nothing!"
    origins = {each["name"]: each["origin"] for each in client.explain_model("named")["settings"]}
    assert (origins["loader"], origins["options.mark"]) == ("the load", "loaders.loud")
    assert client.plan_load("planned", path, loader="words:upper").outcome == "start"


def test_what_a_model_yaml_says_holds_but_for_its_loader_and_that_loaders_options(client, path):
    (path / "model.yaml").write_text("loader: words:lower\noptions: {a: 1}\nmethods: [said]\nmemory_limit: 900MB\n")
    assert client.load_model("m", path).said() == "hello{'a': 1}"
    assert client.load_model("same", path, loader="words:lower").said() == "hello{'a': 1}"
    other = client.load_model("other", path, loader="words:upper")
    assert (other.said(), other.info.memory_limit) == ("HELLO!", 900 * 10**6)
    (path / "model.yaml").write_text("options: {mark: '?'}\n")
    assert client.load_model("third", path, loader="words:upper").said() == "HELLO?"


def test_files_of_two_kinds_are_told_apart_by_the_loader_that_is_named(client, path):
    (path / "a.onnx").touch()
    (path / "b.joblib").touch()
    with pytest.raises(hostd.InvalidArgumentError, match="say which"):
        client.load_model("m", path)
    assert client.load_model("m", path, loader="words:upper").said() == "HELLO!"
    (path / "model.yaml").write_text("methods: [said]\n")
    assert client.load_model("other", path, loader="words:upper").said() == "HELLO!"
    with pytest.raises(hostd.InvalidArgumentError, match="say which"):  # a finder that is named is asked
        client.load_model("third", path, loader="words:upper", finder="files")


def test_an_unknown_loader_or_a_path_with_nothing_is_refused(client, path):
    with pytest.raises(hostd.InvalidArgumentError, match="there is no loader 'lound'; known are"):
        client.load_model("m", path, loader="lound")
    with pytest.raises(hostd.NotFoundError):
        client.load_model("m", path / "nothing", loader="words:upper")
    assert client.list_models() == []


@pytest.mark.parametrize("settings", [{"load_on_start": True, "wait_for_initial_loads": True}, {"lazy_load": True}])
def test_a_deploy_keeps_the_loader(rig, settings):
    models = {"dir": rig.path, "load_on_start": False, "write_quiet_period_s": 0}
    with hostd.Host(models=models) as host:
        assert host.client().deploy_model("m", FILES, loader="words:upper").said() == "HELLO!"
        await_tidy(rig.path)
    with hostd.Host(models={**models, **settings}) as host:
        client = host.client()
        assert client.retrieve_model("m").said() == "HELLO!"


def test_a_declared_model_names_its_loader(path):
    entry = {"path": str(path), "loader": "words:upper", "options": {"mark": ""}}
    with hostd.Host(preload={"m": entry}, models={"wait_for_initial_loads": True}) as host:
        assert host.client().retrieve_model("m").said() == "HELLO"
