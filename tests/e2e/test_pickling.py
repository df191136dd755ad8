"""What is given to other processes: handles connect there, values stay what they are, the rest says what to do instead."""

import asyncio
import copy
import pickle
import subprocess
import sys

import pytest
import ways
from helpers import REPOSITORY, descriptors

import hostd


@pytest.fixture
def model(shared, model_dir):
    return shared.load_model("echo", model_dir())


def elsewhere(thing, expression):
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


def test_handles_and_methods_work_in_another_process(shared, model):
    async def retrieve():
        async with hostd.AsyncClient(shared.endpoint) as client:
            return pickle.dumps(await client.retrieve_model(model.id))

    asynchronous = pickle.loads(asyncio.run(retrieve()))
    assert asyncio.run(asynchronous.predict(5)) == 5
    quick = model.options(timeout_s=7)
    things = [model, model.submit, model.map, model.predict, model.submit.predict, quick.predict, asynchronous]
    uses = (
        "thing[0].predict(5), list(thing[0].stream.generate(3)), thing[0].id, thing[0].loaded",
        "thing[1].predict(1).result(), list(thing[2].predict([2]))",
        "thing[3](5), thing[4](5).result(), thing[5](5), asyncio.run(thing[6].predict(5))",
    )
    assert elsewhere(things, f"({', '.join(uses)})") == str((5, [0, 1, 2], "echo", True, 1, [2], 5, 5, 5, 5))


def test_what_comes_to_a_process_shares_a_connection_and_a_copy_uses_its_own_client(model, monkeypatch):
    ways.only_by_the_host(monkeypatch)  # a lane is a connection, too
    _ = model.predict  # kept in the handle
    before = descriptors().keys()
    come = [pickle.loads(pickle.dumps(thing)) for thing in (model, model, model.options(timeout_s=7))]
    assert [handle.predict(1) for handle in come] == [1] * 3
    sockets = [to for fd, to in descriptors().items() if fd not in before and to.startswith("socket:")]
    assert len(sockets) <= 1, "one connection for all that come to a process"
    before = descriptors().keys()
    for make in (copy.copy, copy.deepcopy):
        assert make(model).predict(1) == make(model.submit).predict(1).result() == make(model.predict)(1) == 1
        assert make([model])[0].id == "echo"
    assert descriptors().keys() == before


def test_what_belongs_to_its_process_says_what_to_do_instead(shared_host, shared, model):
    things = {
        r"Client objects cannot be pickled or copied: .*hostd\.connect\(endpoint\)": lambda: shared,
        r"AsyncClient objects cannot be .*hostd\.AsyncClient\(endpoint\)": lambda: hostd.AsyncClient(shared.endpoint),
        r"Host objects cannot be .*hostd\.connect\(endpoint\)": lambda: shared_host,
        r"PendingCall objects cannot be .*result\(\)": lambda: model.submit.predict(1),
        r"ItemStream objects cannot be .*a model's handle": lambda: model.stream.generate(3),
    }
    for message, thing in things.items():
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=message):
                make(thing())


def test_errors_and_records_travel(model, shared):
    for kind in (getattr(hostd, name) for name in hostd.__all__ if name.endswith("Error")):
        error = pickle.loads(pickle.dumps(kind("a message", details={"a": 1})))
        assert (type(error), error.message, error.details) == (kind, "a message", {"a": 1})
    for record in (model.info, shared.host_info(), shared.memory_info(), hostd.Status.OK):
        assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
