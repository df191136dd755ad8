"""C29: deploys through a real host: what is sent, what is there afterwards, and what is refused.

Bad names are in `test_path_corpus`, failures in `test_c30_all_or_nothing`, replacements in `test_c32_replacing`.
"""

import asyncio
import filecmp
import os
from pathlib import Path

import pytest
from deploy_rig import (
    CODE,
    MIB,
    PLACES,
    all_at_once,
    await_tidy,
    content,
    entries,
    files_of,
    put,
)
from helpers import PATIENCE_S

import hostd

GROWTH_BYTES = 64 * MIB
"""What a deploy of any size may add to the supervisor's memory."""


@pytest.fixture
def second(models):
    """A client of another host on the same directory."""
    with hostd.Host(models={**PLACES, "dir": models, "load_on_start": False}) as running:
        yield running.client()


NAMED = {
    "model.py": CODE,
    "text": b"named",
    "deep/er/and/deep/er/weights.bin": os.urandom(3 * MIB + 17),
    "deep/er/empty": b"",
    ".hidden/.inside": b"h",
    "with space/in it": b"s",
    "decomposed-e\u0301": b"nfd",
    "composed-\u00e9": b"nfc",
    "Case": b"upper",
    "case": b"lower",
    "a" * 255: b"long",
    **{f"many/{number % 7}/{number}": b"%d" % number for number in range(500)},
}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c29_files_arrive_byte_for_byte_however_they_are_given(deploying, deployer, models, tmp_path, kind):
    for name, data in NAMED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    told = []

    async def asynchronously(files):
        async with hostd.AsyncClient(deploying.endpoint) as theirs:
            await theirs.deploy_model("team/m", files, progress=lambda *counts: told.append(counts))

    weights = "deep/er/and/deep/er/weights.bin"
    in_memory = {**NAMED, weights: memoryview(NAMED[weights]), "text": bytearray(NAMED["text"])}
    for files in (in_memory, {name: tmp_path / name for name in NAMED}, tmp_path):
        told.clear()
        if kind == "async":
            asyncio.run(asyncio.wait_for(asynchronously(files), PATIENCE_S))
        else:
            deployer.deploy_model("team/m", files, progress=lambda *counts: told.append(counts))
        assert content(models / "team" / "m") == NAMED
        model = deployer.retrieve_model("team/m")
        assert (model.path, model.predict()) == (str(models / "team" / "m"), "named")
        total = sum(map(len, NAMED.values()))
        assert told == sorted(told)
        assert len(told) >= 4, "there is progress within a file"
        assert {counts[1] for counts in told} == {total}
        assert told[-1][0] == total
        deployer.undeploy_model("team/m")


def test_c29_the_options_of_a_load_go_with_a_deploy(deployer, models, tmp_path):
    gate = tmp_path / "gate"
    options = {"text": f"gated {gate}"}
    model = deployer.deploy_model("m", files_of("unused"), "special", options=options, retries=2, wait=False)
    assert model.loading
    assert content(models / "m") == files_of("unused"), "the files are in their place"
    gate.touch()
    assert model.wait(PATIENCE_S).predict().startswith("gated")
    assert model.info.type == "special"
    for wrong in ({"finder": "nope"}, {"initializer": "nope"}, {"retries": -1}, {"retries": 101}):
        with pytest.raises(hostd.InvalidArgumentError):
            deployer.deploy_model("n", files_of("n"), **wrong)
    with pytest.raises(hostd.NotFoundError):
        deployer.get_model("n")


# What is there already

OCCUPIED = {
    "a model put by hand": lambda models, _: put(models, "m", "by hand"),
    "a file": lambda models, _: (models / "m").write_bytes(b"f"),
    "an empty file": lambda models, _: (models / "m").touch(),
    "an empty directory": lambda models, _: (models / "m").mkdir(),
    "a folder of models": lambda models, _: put(models, "m/inner", "by hand"),
    "a link": lambda models, away: (models / "m").symlink_to(away),
    "a dangling link": lambda models, away: (models / "m").symlink_to(away / "nothing"),
    "a fifo": lambda models, _: os.mkfifo(models / "m"),
}


def test_c29_nothing_that_is_there_is_deployed_over(deployer, models, tmp_path):
    for name, occupy in OCCUPIED.items():
        occupy(models, tmp_path)
        inode, before = (models / "m").lstat().st_ino, {} if name == "a fifo" else content(models)
        with pytest.raises((hostd.AlreadyExistsError, hostd.FailedPreconditionError), match="'m'") as caught:
            deployer.deploy_model("m", files_of("new"), progress=lambda *_: pytest.fail("something was sent"))
        assert "link" in name or "fifo" in name or isinstance(caught.value, hostd.AlreadyExistsError), name
        assert (models / "m").lstat().st_ino == inode
        assert name == "a fifo" or content(models) == before
        assert entries(models) == ["m"]
        (models / "m").rename(tmp_path / name)


def test_c29_what_comes_while_the_files_travel_is_not_replaced(deployer, models):
    """The check at the beginning is not enough: the rename itself must not replace."""

    def progress(sent_bytes, total_bytes):
        if not (models / "m").exists():
            (models / "m").mkdir()  # empty, which a plain rename replaces silently

    with pytest.raises(hostd.AlreadyExistsError):
        deployer.deploy_model("m", files_of("new"), progress=progress)
    assert entries(models) == ["m"]
    assert list((models / "m").iterdir()) == []
    (models / "m").rmdir()


# Races

LOST = (hostd.AlreadyExistsError, hostd.FailedPreconditionError, hostd.AbortedError)
"""What the losers of a race are told: it is there, or it is just being put there."""


def test_c29_of_many_deploys_of_one_id_on_two_hosts_at_most_one_wins(deployer, second, models):
    for turn in range(10):
        clients = (deployer, second) if turn % 2 else (deployer,) * 6
        outcomes = all_at_once(
            [lambda n=n, c=c: c.deploy_model("m", files_of(f"{turn} {n}")) for n, c in enumerate(clients)]  # noqa: B023
        )
        assert all(isinstance(outcome, LOST) for outcome in outcomes if outcome), outcomes
        await_tidy(models)
        if second in clients and None not in outcomes:
            # Of two hosts that begin to move at once both may give up: then neither may leave anything.
            assert entries(models) == [], outcomes
            continue
        assert outcomes.count(None) == 1, outcomes
        winner = outcomes.index(None)
        assert content(models / "m") == files_of(f"{turn} {winner}")
        assert clients[winner].retrieve_model("m").predict() == f"{turn} {winner}"
        clients[winner].undeploy_model("m")
        await_tidy(models)


# Memory


def peak_bytes(pid):
    """Return the most resident memory that a process has had since `forget_peak` (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_peak(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_bytes(pid)


@pytest.mark.heavy
def test_c29_a_big_deploy_does_not_make_the_supervisor_big(deploying, deployer, models, tmp_path):
    """The same with 2 GB is in `python -m benchmarks deploy`."""
    for name, data in files_of("heavy").items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(256 * MIB)  # a hole, which nothing has to write
        file.seek(200 * MIB)
        file.write(b"here")
    deployer.deploy_model("warm-up", files_of("w"))
    before = forget_peak(deploying.pid)
    deployer.deploy_model("m", tmp_path)
    grown = peak_bytes(deploying.pid) - before
    assert grown < GROWTH_BYTES, f"the supervisor grew by {grown / MIB:.0f} MiB"
    assert filecmp.cmp(tmp_path / "weights.bin", models / "m" / "weights.bin", shallow=False)
