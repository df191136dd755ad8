"""Every name that may lead out of a models directory, through every verb that takes one: refused, and nothing happens.

Through the client library, and as raw messages where that would refuse or change something first. The witness is a
hash of everything in and around the models directory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from deploy_rig import CODE, PLACES, Raw, await_tidy, entries, files_of, refusal
from helpers import eventually
from path_corpus import FILE_VECTORS, ID_VECTORS, STAGING, canary, plant

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEAST = 200

REFUSALS = (hostd.InvalidArgumentError, hostd.NotFoundError, hostd.FailedPreconditionError, hostd.AlreadyExistsError)
"""What a good name that leads to something bad may be answered with; a bad name is always INVALID_ARGUMENT."""

FILES = [["model.py", len(CODE)]]


class Place:
    """A models directory full of traps, what is around it, and a host that serves it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.models = base / "models"
        for name in ("models", "outside", "models2"):
            (base / name).mkdir()
        self.planted = plant(self.models, base / "outside")
        (self.models / "real" / "model.py").write_bytes(CODE)
        (self.models / "real" / "text").write_text("real")
        (base / "models2" / "m").mkdir()
        (base / "models2" / "m" / "model.py").write_bytes(CODE)
        (base / "etc").mkdir()
        (base / "etc" / "passwd").write_text("root")
        self.host = hostd.Host(models={**PLACES, "dir": self.models, "lazy_load": True, "load_on_start": False})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("corpus"))
    with made.host:
        yield made


@pytest.fixture
def client(place: Place) -> Iterator[hostd.Client]:
    """A client of a host around which nothing changes meanwhile."""
    before = canary(place.base)
    with hostd.connect(place.host.endpoint) as client:
        yield client
        assert client.list_models() == []
    await_tidy(place.models)
    assert canary(place.base) == before, "something was changed in or around the models directory"


@pytest.fixture
def raw(place: Place, client: hostd.Client) -> Iterator[Raw]:
    with Raw(place.host.endpoint) as made:
        yield made


def packed(arguments: dict[str, Any]) -> bytes:
    """Pack arguments as no client does: surrogates and all."""
    return bytes(msgpack.packb(arguments, unicode_errors="surrogatepass"))


def test_the_corpus_is_as_large_as_was_promised() -> None:
    assert len(set(ID_VECTORS.values())) >= LEAST
    assert len(set(FILE_VECTORS.values())) >= LEAST


VERBS: dict[str, Callable[[str], dict[str, Any]]] = {
    "deploy_begin": lambda name: {"model_id": name, "files": FILES},
    "undeploy_model": lambda name: {"model_id": name},
    "load_model": lambda name: {"model_id": name, "path": None},
    "retrieve_model": lambda name: {"model_id": name},
}
REPLACING: dict[str, Callable[[str], dict[str, Any]]] = {
    "deploy_begin": lambda name: {"model_id": name, "files": FILES, "replace": True, "keep": True}
}


@pytest.mark.parametrize("table", [VERBS, REPLACING], ids=["verbs", "replacing"])
def test_no_bad_id_gets_anywhere_in_a_raw_message(raw: Raw, table: dict[str, Callable[[str], dict[str, Any]]]) -> None:
    for why, name in ID_VECTORS.items():
        for verb, arguments in table.items():
            error = refusal(lambda: raw.answer(raw.begin_packed(verb, packed(arguments(name)))))  # noqa: B023
            assert isinstance(error, hostd.InvalidArgumentError), f"{why}, {verb}: {error!r}"


CALLS: dict[str, Callable[[hostd.Client, str], object]] = {
    "deploy": lambda client, name: client.deploy_model(name, files_of("x")),
    "replace": lambda client, name: client.deploy_model(name, files_of("x"), replace=True, keep=True),
    "undeploy": lambda client, name: client.undeploy_model(name),
    "load": lambda client, name: client.load_model(name, "/nowhere"),
    "retrieve": lambda client, name: client.retrieve_model(name),
}


@pytest.mark.parametrize("verb", CALLS)
def test_no_bad_id_gets_anywhere_through_the_client(client: hostd.Client, verb: str) -> None:
    for why, name in ID_VECTORS.items():
        error = refusal(lambda: CALLS[verb](client, name))  # noqa: B023
        assert isinstance(error, hostd.InvalidArgumentError), f"{why}: {error!r}"


@pytest.mark.parametrize("replace", [False, True], ids=["new", "replacing"])
def test_no_bad_file_name_gets_anywhere(client: hostd.Client, raw: Raw, replace: bool) -> None:
    for why, name in FILE_VECTORS.items():
        error = refusal(lambda: client.deploy_model("real", {"model.py": CODE, name: b"x"}, replace=replace))  # noqa: B023
        assert isinstance(error, hostd.InvalidArgumentError), f"{why}: {error!r}"
        for files in ([*FILES, [name, 1]], [[name, 1], *FILES], [[name, 0]]):
            body = packed({"model_id": "real", "files": files, "replace": replace})
            error = refusal(lambda: raw.answer(raw.begin_packed("deploy_begin", body)))  # noqa: B023
            assert isinstance(error, hostd.InvalidArgumentError), f"{why}: {error!r}"


@pytest.mark.parametrize("verb", CALLS)
def test_nothing_planted_in_the_directory_is_taken_for_a_model(client: hostd.Client, place: Place, verb: str) -> None:
    for why, name in place.planted.items():
        error = refusal(lambda: CALLS[verb](client, name))  # noqa: B023
        assert isinstance(error, REFUSALS), f"{why}: {error!r}"


def test_a_call_of_what_leads_out_is_refused_like_its_retrieval(client: hostd.Client, place: Place) -> None:
    """A call loads lazily too, and there its id was never looked at by a verb."""
    for why, name in {**ID_VECTORS, **place.planted}.items():
        if any(0xD800 <= ord(character) < 0xE000 for character in name):
            continue  # the client cannot send it
        error = refusal(lambda: client.call(name, "predict", (), {}, 20))  # noqa: B023
        assert isinstance(error, (*REFUSALS, hostd.MessageTooLargeError)), f"{why}: {error!r}"


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.5, b"m", ["m"], {"m": 1}, ("m",)], ids=lambda value: type(value).__name__
)
def test_an_id_or_a_name_that_is_no_text_is_refused(raw: Raw, value: Any) -> None:
    for verb, arguments in VERBS.items():
        assert isinstance(raw.refusal(verb, **arguments(value)), hostd.InvalidArgumentError)
    for file in ([value, 1], value, [value], ["a", 1, 2], []):
        assert isinstance(raw.refusal("deploy_begin", model_id="m", files=[file]), hostd.InvalidArgumentError)


@pytest.mark.parametrize("size", [-1, True, None, 1.0, "1", 2**63, 2**64 - 1], ids=repr)
def test_a_size_that_no_file_has_is_refused(raw: Raw, size: Any) -> None:
    error = raw.refusal("deploy_begin", model_id="m", files=[["model.py", size]])
    assert isinstance(error, (hostd.InvalidArgumentError, hostd.ResourceExhaustedError)), repr(error)


def test_names_that_cannot_be_together_are_refused(raw: Raw) -> None:
    for names in (
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a/b/c", "x", "a/b"],
        ["model.py"] * 2,
        [],
        ["only/in/folders"],
        [".hidden"],
        [f"f{number}" for number in range(10_001)],
    ):
        error = raw.refusal("deploy_begin", model_id="m", files=[[name, 0] for name in names])
        assert isinstance(error, hostd.InvalidArgumentError), repr(error)


def test_a_tree_that_turns_into_traps_during_an_upload_leads_nowhere(
    raw: Raw, client: hostd.Client, place: Place
) -> None:
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


def test_a_staging_area_that_is_a_link_is_not_followed(raw: Raw, client: hostd.Client, place: Place) -> None:
    (place.models / STAGING).symlink_to(place.base / "outside")
    try:
        error = raw.refusal("deploy_begin", model_id="m", files=FILES)
        assert isinstance(error, hostd.FailedPreconditionError), repr(error)
        assert isinstance(raw.refusal("undeploy_model", model_id="real"), hostd.FailedPreconditionError)
    finally:
        os.unlink(place.models / STAGING)


def test_an_entry_that_somebody_forged_moves_nothing(raw: Raw, client: hostd.Client, place: Place) -> None:
    """A journal is read from a directory that others may write: it must not lead anywhere either."""
    forged = {
        "traversal": '{"state": 0, "operation": "deploy", "model_id": "../outside"}\n{"tree": 1, "first_made": 0}\n',
        "absolute": '{"state": 1, "operation": "undeploy", "model_id": "/etc"}\n',
        "nonsense": "\0" * 100,
        "huge": "[" * 200_000,
        "deep": "[" * 60_000 + "\n",
        "deep note": '{"state": 0, "operation": "deploy", "model_id": "real"}\n' + "[" * 60_000 + "\n",
        "strange note": '{"state": 0, "operation": "undeploy", "model_id": "real"}\n{"opened_up": [1, -1]}\n',
        "later version": '{"state": 7, "operation": "format"}\n',
        "list": "[]\n",
        "moves a model": '{"state": 0, "operation": "deploy", "model_id": "real"}\n{"tree": 1, "first_made": -5}\n',
    }
    staging = place.models / STAGING
    staging.mkdir()
    names = {f"{number:016x}.json": text for number, text in enumerate(forged.values())}
    for name, text in names.items():
        (staging / name).write_text(text)
    try:
        assert isinstance(raw.refusal("deploy_begin", model_id="real", files=FILES), hostd.AlreadyExistsError)
        assert client.deploy_model("m", files_of("m")).predict() == "m"
        client.undeploy_model("m")
        eventually(lambda: set(entries(staging)) <= names.keys(), "what is not forged is tidied up")
    finally:
        for path in staging.glob("*.json"):
            path.unlink()
        with suppress(FileNotFoundError):  # the host, which may be tidying up still, may be the one to remove it
            staging.rmdir()
