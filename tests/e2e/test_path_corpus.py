"""Every name that may lead out of a models directory, through every verb that takes one: refused, and nothing happens.

Through the client library, and as raw messages where that would refuse or change something first. What shows it is a
hash of everything in and around the models directory.
"""

import msgpack
import pytest
from deploy_rig import CODE, PLACES, Raw, await_tidy, files_of, refusal
from path_corpus import FILE_VECTORS, ID_VECTORS, STAGING, canary, plant

import hostd

LEAST = 200

REFUSALS = (hostd.InvalidArgumentError, hostd.NotFoundError, hostd.FailedPreconditionError, hostd.AlreadyExistsError)
"""What a good name that leads to something bad may be answered with; a bad name is always INVALID_ARGUMENT."""

FILES = [["model.py", len(CODE)]]


class Place:
    """A models directory full of traps, what is around it, and a host that serves it."""

    def __init__(self, base):
        self.base = base
        self.models = base / "models"
        for name in ("models", "outside", "models2/m", "etc"):
            (base / name).mkdir(parents=True)
        self.planted = plant(self.models, base / "outside")
        (self.models / "real" / "model.py").write_bytes(CODE)
        (self.models / "real" / "text").write_text("real")
        (base / "models2" / "m" / "model.py").write_bytes(CODE)
        (base / "etc" / "passwd").write_text("root")
        self.host = hostd.Host(models={**PLACES, "dir": self.models, "lazy_load": True, "load_on_start": False})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("corpus"))
    with made.host:
        yield made


@pytest.fixture
def client(place):
    """A client of a host around which nothing changes meanwhile."""
    before = canary(place.base)
    with hostd.connect(place.host.endpoint) as client:
        yield client
        assert client.list_models() == []
    await_tidy(place.models)
    assert canary(place.base) == before, "something was changed in or around the models directory"


@pytest.fixture
def raw(place, client):
    with Raw(place.host.endpoint) as made:
        yield made


def packed(arguments):
    """Pack arguments as no client does: surrogates and all."""
    return bytes(msgpack.packb(arguments, unicode_errors="surrogatepass"))


VERBS = [
    ("deploy_begin", lambda name: {"model_id": name, "files": FILES}),
    ("deploy_begin", lambda name: {"model_id": name, "files": FILES, "replace": True, "keep": True}),
    ("undeploy_model", lambda name: {"model_id": name}),
    ("load_model", lambda name: {"model_id": name, "path": None}),
    ("retrieve_model", lambda name: {"model_id": name}),
]
CALLS = {
    "deploy": lambda client, name: client.deploy_model(name, files_of("x")),
    "replace": lambda client, name: client.deploy_model(name, files_of("x"), replace=True, keep=True),
    "undeploy": lambda client, name: client.undeploy_model(name),
    "load": lambda client, name: client.load_model(name, "/nowhere"),
    "retrieve": lambda client, name: client.retrieve_model(name),
}


def test_no_bad_id_gets_anywhere(client, raw):
    assert len(set(ID_VECTORS.values())) >= LEAST
    for why, name in ID_VECTORS.items():
        for verb, arguments in VERBS:
            error = refusal(lambda: raw.answer(raw.begin_packed(verb, packed(arguments(name)))))  # noqa: B023
            assert isinstance(error, hostd.InvalidArgumentError), f"{why}, {verb}: {error!r}"
        for call, act in CALLS.items():
            error = refusal(lambda: act(client, name))  # noqa: B023
            assert isinstance(error, hostd.InvalidArgumentError), f"{why}, {call}: {error!r}"


@pytest.mark.parametrize("replace", [False, True], ids=["new", "replacing"])
def test_no_bad_file_name_gets_anywhere(client, raw, replace):
    assert len(set(FILE_VECTORS.values())) >= LEAST
    for why, name in FILE_VECTORS.items():
        error = refusal(lambda: client.deploy_model("real", {"model.py": CODE, name: b"x"}, replace=replace))  # noqa: B023
        assert isinstance(error, hostd.InvalidArgumentError), f"{why}: {error!r}"
        for files in ([*FILES, [name, 1]], [[name, 1], *FILES], [[name, 0]]):
            body = packed({"model_id": "real", "files": files, "replace": replace})
            error = refusal(lambda: raw.answer(raw.begin_packed("deploy_begin", body)))  # noqa: B023
            assert isinstance(error, hostd.InvalidArgumentError), f"{why}: {error!r}"


def test_nothing_planted_in_the_directory_is_taken_for_a_model(client, place):
    for why, name in place.planted.items():
        for call, act in CALLS.items():
            error = refusal(lambda: act(client, name))  # noqa: B023
            assert isinstance(error, REFUSALS), f"{why}, {call}: {error!r}"
    # A call loads lazily too, and there its id was never looked at by a verb.
    for why, name in {**ID_VECTORS, **place.planted}.items():
        if any(0xD800 <= ord(character) < 0xE000 for character in name):
            continue  # the client cannot send it
        error = refusal(lambda: client.call(name, "predict", (), {}, 20))  # noqa: B023
        assert isinstance(error, (*REFUSALS, hostd.MessageTooLargeError)), f"{why}: {error!r}"


def test_ids_names_sizes_and_folders_that_cannot_be_are_refused(raw):
    def refused(what, verb="deploy_begin", **arguments):
        error = raw.refusal(verb, **{"model_id": "m", **arguments})
        assert isinstance(error, hostd.InvalidArgumentError), f"{what!r}: {error!r}"
        return error

    for value in (None, True, 1, 1.5, b"m", ["m"], {"m": 1}, ("m",)):
        for verb, make in VERBS:
            refused(value, verb, **make(value))
        for file in ([value, 1], value, [value], ["a", 1, 2], []):
            refused(file, files=[file])
    for size in (-1, True, None, 1.0, "1", 2**63, 2**64 - 1):
        error = raw.refusal("deploy_begin", model_id="m", files=[["model.py", size]])
        assert isinstance(error, (hostd.InvalidArgumentError, hostd.ResourceExhaustedError)), f"{size!r}: {error!r}"
    together = [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b/c", "x", "a/b"], [], ["only/in/folders"], [".hidden"]]
    for names in [*together, [f"f{number}" for number in range(10_001)]]:
        refused(names, files=[[name, 0] for name in names])
    more = [
        (["model.py"], [], "as the folder of another file"),
        (["../x"], [], "is no name of a file or folder"),
        (["a"] * 10_001, [], "a deploy may have 10000 files"),
        ([1], [], "a list of relative names"),
        ([], [1], "executables must be a list of indexes of files, from 0 to 0"),
        ([], ["model.py"], "executables must be a list of indexes"),
        ([], "text", "executables must be a list"),
    ]
    for folders, executables, words in more:
        assert words in refused(words, files=FILES, folders=folders, executables=executables).message


def test_a_tree_that_turns_into_traps_during_an_upload_leads_nowhere(raw, client, place):
    """Somebody who may write to the models directory puts links into the tree on its way in."""
    number = raw.ask("deploy_begin", model_id="m", files=[["model.py", 1], ["a/b", 1], ["a/c", 1]])["upload"]
    (tree,) = [path for path in (place.models / STAGING).iterdir() if path.is_dir()]
    (tree / "model.py").symlink_to(place.base / "outside" / "secret")
    (tree / "a").rmdir()
    (tree / "a").symlink_to(place.base / "outside")
    for index in range(3):
        error = raw.refusal("deploy_write", upload=number, file=index, offset=0, data=b"x")
        assert not isinstance(error, hostd.InternalError), repr(error)
    raw.refusal("deploy_commit", upload=number)
