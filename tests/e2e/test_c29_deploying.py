"""C29: deploys through a real host: what is sent, what is there afterwards, and what is refused.

Bad names are in `test_path_corpus`, failures in `test_c30_all_or_nothing`, replacements in `test_c32_replacing`.
"""

from __future__ import annotations

import asyncio
import filecmp
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deploy_rig import CODE, MIB, PLACES, Raw, await_tidy, content, emptied, entries, files_of, put, refusal
from helpers import PATIENCE_S, program

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROWTH_BYTES = 64 * MIB
"""What a deploy of any size may add to the supervisor's memory."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[hostd.Host]:
    with hostd.Host(models={**PLACES, "dir": models}) as running:
        yield running


@pytest.fixture
def client(host: hostd.Host, models: Path) -> Iterator[hostd.Client]:
    with emptied(host, models) as made:
        yield made


@pytest.fixture(scope="module")
def second_host(models: Path) -> Iterator[hostd.Host]:
    """Another host on the same directory."""
    with hostd.Host(models={**PLACES, "dir": models, "load_on_start": False}) as running:
        yield running


@pytest.fixture
def second(second_host: hostd.Host) -> Iterator[hostd.Client]:
    with hostd.connect(second_host.endpoint) as made:
        yield made
        made.unload_all_models()


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
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("source", ["bytes", "paths", "directory"])
def test_c29_files_arrive_byte_for_byte_however_they_are_given(
    host: hostd.Host, client: hostd.Client, models: Path, tmp_path: Path, kind: str, source: str
) -> None:
    for name, data in NAMED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    files: Any = {
        "bytes": NAMED,
        "paths": {name: tmp_path / name for name in NAMED},
        "directory": tmp_path,
    }[source]
    told: list[tuple[int, int]] = []

    async def asynchronously() -> None:
        async with hostd.AsyncClient(host.endpoint) as theirs:
            model = await theirs.deploy_model("team/m", files, progress=lambda *counts: told.append(counts))
            assert model.path == str(models / "team" / "m")

    if kind == "async":
        asyncio.run(asyncio.wait_for(asynchronously(), 60))
    else:
        client.deploy_model("team/m", files, progress=lambda *counts: told.append(counts))
    assert content(models / "team" / "m") == NAMED
    assert client.retrieve_model("team/m").predict() == "named"
    total = sum(map(len, NAMED.values()))
    assert told == sorted(told)
    assert len(told) >= 4, "there is progress within a file"
    assert {counts[1] for counts in told} == {total}
    assert told[-1][0] == total


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_c29_any_bytes_can_be_a_files_content(client: hostd.Client, models: Path, make: Callable[[bytes], Any]) -> None:
    data = os.urandom(2 * MIB + 1)
    client.deploy_model("m", {**files_of("t"), "data": make(data)})
    assert (models / "m" / "data").read_bytes() == data


def test_c29_a_model_of_many_files_is_deployed_whole(client: hostd.Client, models: Path) -> None:
    files = files_of("many", **{f"part-{number % 7}/{number}": b"%d" % number for number in range(1500)})
    client.deploy_model("m", files)
    assert content(models / "m") == files


def test_c29_the_options_of_a_load_go_with_a_deploy(client: hostd.Client) -> None:
    model = client.deploy_model("m", files_of("unused"), "special", options={"text": "an option"})
    assert model.predict() == "an option"
    assert model.info.type == "special"
    for wrong in ({"finder": "nope"}, {"initializer": "nope"}, {"retries": -1}, {"retries": 101}):
        assert isinstance(refusal(lambda: client.deploy_model("n", files_of("n"), **wrong)), hostd.InvalidArgumentError)  # noqa: B023
    with pytest.raises(hostd.NotFoundError):
        client.get_model("n")


def test_c29_a_failed_load_of_a_deploy_is_tried_again_as_often_as_asked(
    client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    code = b"""
from pathlib import Path
def load(path, log):
    with open(log, "a") as file:
        file.write("x")
    if Path(log).stat().st_size < 3:
        raise ValueError("not yet")
    return str
"""
    log = tmp_path / "log"
    client.deploy_model("m", {"model.py": code}, options={"log": str(log)}, retries=2)
    assert log.read_text() == "xxx"


def test_c29_a_deploy_without_waiting_returns_while_the_model_loads(
    client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    model = client.deploy_model("m", files_of(f"gated {gate}"), wait=False)
    assert model.loading
    assert content(models / "m") == files_of(f"gated {gate}"), "the files are in their place"
    gate.touch()
    assert model.wait(20).predict().startswith("gated")


# What is there already


def put_link(models: Path, tmp_path: Path) -> None:
    (models / "m").symlink_to(tmp_path)


def put_dangling(models: Path, tmp_path: Path) -> None:
    (models / "m").symlink_to(tmp_path / "nothing")


OCCUPIED: dict[str, Callable[[Path, Path], object]] = {
    "a model put by hand": lambda models, _: put(models, "m", "by hand"),
    "a file": lambda models, _: (models / "m").write_bytes(b"f"),
    "an empty file": lambda models, _: (models / "m").touch(),
    "an empty directory": lambda models, _: (models / "m").mkdir(),
    "a folder of models": lambda models, _: put(models, "m/inner", "by hand"),
    "a link": put_link,
    "a dangling link": put_dangling,
    "a fifo": lambda models, _: os.mkfifo(models / "m"),
}


@pytest.mark.parametrize("occupied", OCCUPIED)
def test_c29_nothing_that_is_there_is_deployed_over(
    client: hostd.Client, models: Path, tmp_path: Path, occupied: str
) -> None:
    OCCUPIED[occupied](models, tmp_path)
    inode, before = (models / "m").lstat().st_ino, {} if occupied == "a fifo" else content(models)
    try:
        with pytest.raises((hostd.AlreadyExistsError, hostd.FailedPreconditionError), match="'m'") as caught:
            client.deploy_model("m", files_of("new"), progress=lambda *_: pytest.fail("something was sent"))
        if "link" not in occupied and "fifo" not in occupied:
            assert isinstance(caught.value, hostd.AlreadyExistsError)
        assert (models / "m").lstat().st_ino == inode
        assert occupied == "a fifo" or content(models) == before
        assert entries(models) == ["m"]
    finally:
        if (models / "m").is_symlink() or not (models / "m").is_dir():
            (models / "m").unlink()
        elif not any((models / "m").iterdir()):
            (models / "m").rmdir()


def test_c29_an_id_that_is_deployed_or_loaded_from_elsewhere_is_taken(
    client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    client.deploy_model("m", files_of("old"))
    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("m", files_of("new"))
    client.unload_model("m")
    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("m", files_of("new"))
    assert content(models / "m") == files_of("old")
    client.load_model("elsewhere", put(tmp_path, "x", "elsewhere"))
    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("elsewhere", files_of("new"))
    assert entries(models) == ["m"]


def test_c29_what_comes_while_the_files_travel_is_not_replaced(client: hostd.Client, models: Path) -> None:
    """The check at the beginning is not enough: the rename itself must not replace."""

    def progress(sent_bytes: int, total_bytes: int) -> None:
        if not (models / "m").exists():
            (models / "m").mkdir()  # empty, which a plain rename replaces silently

    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("m", files_of("new"), progress=progress)
    assert entries(models) == ["m"]
    assert list((models / "m").iterdir()) == []
    (models / "m").rmdir()


def test_c29_what_another_host_deployed_is_taken_and_can_be_used(
    client: hostd.Client, second: hostd.Client, models: Path
) -> None:
    second.deploy_model("m", files_of("theirs"))
    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("m", files_of("ours"))
    assert content(models / "m") == files_of("theirs")
    assert client.load_model("m", models / "m").predict() == "theirs"


# Races


def all_at_once(acts: list[Callable[[], object]]) -> list[hostd.HostError | None]:
    """Do all at the same moment; return what each raised."""
    outcomes: list[hostd.HostError | None] = [None] * len(acts)
    barrier = threading.Barrier(len(acts))

    def act(number: int) -> None:
        barrier.wait(20)
        try:
            acts[number]()
        except hostd.HostError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


LOST = (hostd.AlreadyExistsError, hostd.FailedPreconditionError, hostd.AbortedError)
"""What the losers of a race are told: it is there, or it is just being put there."""


def test_c29_of_many_deploys_of_one_id_exactly_one_wins(host: hostd.Host, client: hostd.Client, models: Path) -> None:
    for turn in range(3):
        outcomes = all_at_once(
            [lambda n=n: client.deploy_model("m", files_of(f"{turn}-{n}")) for n in range(8)]  # type: ignore[misc]  # noqa: B023
        )
        assert outcomes.count(None) == 1, outcomes
        assert all(isinstance(outcome, LOST) for outcome in outcomes if outcome)
        winner = f"{turn}-{outcomes.index(None)}"
        assert client.retrieve_model("m").predict() == winner
        await_tidy(models)
        assert content(models) == {f"m/{name}": data for name, data in files_of(winner).items()}
        client.undeploy_model("m")


def test_c29_of_two_hosts_that_deploy_one_id_exactly_one_wins(
    client: hostd.Client, second: hostd.Client, models: Path
) -> None:
    for turn in range(10):
        mine, theirs = files_of(f"{turn} mine"), files_of(f"{turn} theirs")
        outcomes = all_at_once([lambda: client.deploy_model("m", mine), lambda: second.deploy_model("m", theirs)])  # noqa: B023
        # Of two that begin to move at once both may give up: then neither may leave anything.
        assert outcomes.count(None) <= 1, f"both think that they won: {outcomes}"
        assert all(isinstance(outcome, LOST) for outcome in outcomes if outcome), outcomes
        await_tidy(models)
        if None not in outcomes:
            assert entries(models) == [], outcomes
            continue
        winner = (client, second)[outcomes.index(None)]
        assert content(models / "m") == (mine, theirs)[outcomes.index(None)]
        assert winner.retrieve_model("m").predict().startswith(str(turn))
        winner.undeploy_model("m")
        await_tidy(models)


def test_c29_deploys_of_different_ids_do_not_disturb_each_other(client: hostd.Client, models: Path) -> None:
    outcomes = all_at_once(
        [lambda n=n: client.deploy_model(f"team/m{n}", files_of(f"{n}", data=os.urandom(MIB))) for n in range(6)]  # type: ignore[misc]
    )
    assert outcomes == [None] * 6
    assert [client.retrieve_model(f"team/m{n}").predict() for n in range(6)] == [str(n) for n in range(6)]
    assert entries(models) == ["team"]


# Memory


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process has had since `forget_peak` (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.heavy
def test_c29_a_big_deploy_does_not_make_the_supervisor_big(
    host: hostd.Host, client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    """The same with 2 GB is in `python -m benchmarks deploy`."""
    for name, data in files_of("heavy").items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(256 * MIB)  # a hole: nobody has to write it
        file.seek(200 * MIB)
        file.write(b"here")
    client.deploy_model("warm-up", files_of("w"))
    forget_peak(host.pid)
    before = peak_bytes(host.pid)
    client.deploy_model("m", tmp_path)
    grown = peak_bytes(host.pid) - before
    assert grown < GROWTH_BYTES, f"the supervisor grew by {grown / MIB:.0f} MiB"
    assert filecmp.cmp(tmp_path / "weights.bin", models / "m" / "weights.bin", shallow=False)


@pytest.mark.heavy
@pytest.mark.parametrize("size", [0, 1], ids=["empty pieces", "pieces of one byte"])
def test_c29_a_client_that_sends_tiny_pieces_without_waiting_does_not_make_the_supervisor_big(
    host: hostd.Host, client: hostd.Client, models: Path, size: int
) -> None:
    forget_peak(host.pid)
    before = peak_bytes(host.pid)
    with Raw(host.endpoint) as raw:
        upload = raw.ask("deploy_begin", model_id="m", files=[["model.py", 1]])["upload"]
        for _ in range(100_000):
            raw.begin("deploy_write", upload=upload, file=0, offset=0, data=b"x" * size)
            raw.forget_answers()  # it would be dropped for not reading them
        assert client.host_info().pid == host.pid
        grown = peak_bytes(host.pid) - before
        raw.begin("deploy_abort", upload=upload)
    await_tidy(models)
    assert grown < GROWTH_BYTES, f"the supervisor grew by {grown / MIB:.0f} MiB"


def test_c29_a_client_that_begins_deploys_and_never_ends_them_is_refused_and_the_host_goes_on(
    host: hostd.Host, client: hostd.Client, models: Path
) -> None:
    """Each holds descriptors."""

    def opened() -> int:
        return len(os.listdir(f"/proc/{host.pid}/fd"))

    before = opened()
    with Raw(host.endpoint) as raw:
        begun = 0
        with pytest.raises(hostd.ResourceExhaustedError, match="deploys are under way"):
            for begun in range(1000):
                raw.ask("deploy_begin", model_id=f"m{begun}", files=[["model.py", 1]])
        assert begun < 100
        assert opened() - before < 500
        files = files_of("another program's")
        source = f"import hostd; hostd.connect({host.endpoint!r}).deploy_model('m', {files!r})"
        with program(source) as other:
            assert other.wait(PATIENCE_S) == 0
        assert client.retrieve_model("m").predict() == "another program's"
    await_tidy(models)
    assert entries(models) == ["m"]
