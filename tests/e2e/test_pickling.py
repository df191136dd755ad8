"""What is given to other processes: handles connect there, values stay what they are, the rest says what to do instead."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers import REPOSITORY

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def model(shared: hostd.Client, model_dir: Callable[..., str]) -> hostd.Model:
    return shared.load_model("echo", model_dir())


def elsewhere(thing: object, expression: str) -> Any:
    """Return what an expression about `thing` is in a fresh process."""
    source = f"""
import asyncio, pickle, sys
thing = pickle.loads(bytes.fromhex(sys.argv[1]))
print({expression})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source, pickle.dumps(thing).hex()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize(
    "take",
    [
        lambda model: model.predict,
        lambda model: model.submit.predict,
        lambda model: model.options(timeout_s=7).predict,
    ],
)
def test_a_method_of_a_model_works_in_another_process(model: hostd.Model, take: Callable[[hostd.Model], Any]) -> None:
    thing = take(model)
    expression = "thing(5).result()" if "submit" in repr(thing._of) else "thing(5)"
    assert elsewhere(thing, expression) == "5"


def test_a_handle_is_the_same_model_in_another_process(model: hostd.Model) -> None:
    assert elsewhere(model, "(thing.predict(5), list(thing.stream.generate(3)), thing.id, thing.loaded)") == str(
        (5, [0, 1, 2], "echo", True)
    )
    assert elsewhere([model.submit, model.map], "(thing[0].predict(1).result(), list(thing[1].predict([2])))") == str(
        (1, [2])
    )
    quick = pickle.loads(pickle.dumps(model.options(timeout_s=7)))
    assert quick._timeout_s == 7
    assert quick._caller is pickle.loads(pickle.dumps(model))._caller, "one connection for all that come to a process"


def test_an_asynchronous_handle_is_the_same_model_in_another_process(shared: hostd.Client, model: hostd.Model) -> None:
    async def retrieve() -> bytes:
        async with hostd.AsyncClient(shared.endpoint) as client:
            return pickle.dumps(await client.retrieve_model(model.id))

    handle = pickle.loads(asyncio.run(retrieve()))
    assert asyncio.run(handle.predict(5)) == 5
    assert elsewhere(handle, "asyncio.run(thing.predict(5))") == "5"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_handle_uses_the_same_client(model: hostd.Model, make: Callable[[Any], Any]) -> None:
    _ = model.predict  # kept in the handle
    assert make(model).predict(1) == 1
    assert make(model)._caller is model._caller
    assert make(model.submit).predict(1).result() == 1
    assert make(model.predict)(1) == 1
    assert make([model])[0].id == "echo"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_belongs_to_its_process_says_what_to_do_instead(
    shared_host: hostd.Host, shared: hostd.Client, model: hostd.Model, make: Callable[[Any], Any]
) -> None:
    def things() -> Iterator[tuple[Any, str]]:
        yield shared, r"Client objects cannot be pickled or copied: .*hostd\.connect\(endpoint\)"
        yield hostd.AsyncClient(shared.endpoint), r"AsyncClient objects cannot be .*hostd\.AsyncClient\(endpoint\)"
        yield shared_host, r"Host objects cannot be .*hostd\.connect\(endpoint\)"
        yield model.submit.predict(1), r"PendingCall objects cannot be .*result\(\)"
        yield model.stream.generate(3), r"ItemStream objects cannot be .*a model's handle"

    for thing, message in things():
        with pytest.raises(TypeError, match=message):
            make(thing)


ERRORS = [getattr(hostd, name) for name in hostd.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_and_records_travel(model: hostd.Model, shared: hostd.Client, kind: type[hostd.HostError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a message", details={"a": 1})))
    assert (type(error), error.message, error.details) == (kind, "a message", {"a": 1})
    for record in (model.info, shared.host_info(), shared.memory_info(), hostd.Status.OK):
        assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
