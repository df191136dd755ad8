"""C30: a deploy that fails leaves nothing: bad models, bad clients, full disks, missing permissions.

Kills of the host are in `test_deploy_kills`.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from deploy_rig import (
    CODE,
    MIB,
    STAGING,
    Raw,
    await_tidy,
    content,
    entries,
    files_of,
    undeploy_when_undone,
)
from helpers import PATIENCE_S, eventually, line_of, program, stop

import hostd

UNANSWERED_CHUNKS = 1024
"""How many pieces of an upload may be under way."""

WORKERS = {"load_timeout_s": 10.0}


@pytest.fixture
def raw(deploying, deployer):
    with Raw(deploying.endpoint) as made:
        yield made


# Loads that fail

FAILING = {
    "raises": (files_of("bad"), hostd.ModelError),
    "dies": (files_of("dies"), hostd.HostError),
    "hangs": (files_of("gated /nowhere"), hostd.DeadlineExceededError),
    "no code": ({"text": b"no model at all"}, hostd.InvalidArgumentError),
    "bad settings": ({**files_of("x"), "model.yaml": b"loader: [1"}, hostd.InvalidArgumentError),
    "unknown loader": ({**files_of("x"), "model.yaml": b"loader: nope"}, hostd.InvalidArgumentError),
    "syntax error": ({"model.py": b"def load(:"}, hostd.HostError),
}


@pytest.mark.parametrize("why", FAILING)
def test_c30_a_failed_load_leaves_nothing_or_with_keep_the_files(deployer, models, why):
    files, kind = FAILING[why]
    with pytest.raises(kind):
        deployer.deploy_model("team/group/m", files)
    assert entries(models) == [], "answered when nothing is left"
    assert deployer.list_models() == []
    if why == "hangs":
        return  # for as long again
    with pytest.raises(kind):
        deployer.deploy_model("m", files, keep=True)
    await_tidy(models)
    assert content(models / "m") == files
    assert deployer.list_models() == []
    with pytest.raises(hostd.AlreadyExistsError):
        deployer.deploy_model("m", files_of("good"))
    assert deployer.deploy_model("m", files_of("good"), replace=True).predict() == "good"


def test_c30_a_deploy_that_fails_or_is_overtaken_without_a_waiting_client_leaves_nothing(deployer, models, tmp_path):
    deployer.deploy_model("m", files_of("bad"), wait=False)
    eventually(lambda: entries(models) == [], "the files of the model that failed are removed")
    undeploy_when_undone(deployer)
    handle = deployer.deploy_model("m", files_of(f"gated {tmp_path / 'gate'}"), wait=False)
    eventually((tmp_path / "gate.reached").exists, "the model loads")
    deployer.unload_model("m")
    with pytest.raises((hostd.NotFoundError, hostd.AbortedError, hostd.FailedPreconditionError)):
        handle.wait(PATIENCE_S)
    eventually(lambda: entries(models) == [], "the files are removed")
    undeploy_when_undone(deployer)


# Clients that fail

SENDING = """
    import signal, sys, hostd
    def progress(sent_bytes, total_bytes):
        print("begun", flush=True)
        signal.pause()
    hostd.connect(sys.argv[1]).deploy_model("m", {"weights.bin": bytes(20 << 20)}, progress=progress)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_c30_a_client_that_is_killed_or_interrupted_leaves_nothing(deploying, deployer, models, how):
    theirs = program(SENDING, deploying.endpoint)
    try:
        assert line_of(theirs) == "begun"
        assert entries(models) == [STAGING]
        theirs.send_signal(how)
        theirs.wait(PATIENCE_S)
        assert how == signal.SIGKILL or entries(models) == [], "one that ends in order has its upload removed before"
    finally:
        stop(theirs)
    assert deployer.deploy_model("m", files_of("mine")).predict() == "mine", "nothing has to wait for that"
    await_tidy(models)
    assert content(models) == {f"m/{name}": data for name, data in files_of("mine").items()}


def test_c30_what_fails_at_the_client_leaves_no_files(deploying, deployer, models, tmp_path):
    files, weights = {"model.py": CODE, "weights.bin": bytes(20 * MIB)}, tmp_path / "weights.bin"
    weights.write_bytes(bytes(10 * MIB))

    def fail(sent_bytes, total_bytes):
        if sent_bytes > 3 * MIB:
            raise OSError("the window was closed")

    async def asynchronously():
        begun = asyncio.Event()
        async with hostd.AsyncClient(deploying.endpoint) as theirs:
            with pytest.raises(OSError, match="the window was closed"):
                await theirs.deploy_model("m", files, progress=fail)
            assert entries(models) == [], "the abort is answered when nothing is left"
            deploy = asyncio.ensure_future(theirs.deploy_model("m", files, progress=lambda *_: begun.set()))
            await begun.wait()
            deploy.cancel()
            with pytest.raises(asyncio.CancelledError):
                await deploy
            assert entries(models) == []

    asyncio.run(asyncio.wait_for(asynchronously(), PATIENCE_S))
    with pytest.raises(OSError, match="the window was closed"):
        deployer.deploy_model("m", files, progress=fail)
    assert entries(models) == []
    with pytest.raises(hostd.FailedPreconditionError, match="changed while it was deployed"):
        deployer.deploy_model(
            "m", {"model.py": CODE, "weights.bin": weights}, progress=lambda *_: os.truncate(weights, 11 * MIB)
        )
    assert entries(models) == []
    gone = hostd.connect(deploying.endpoint)
    with pytest.raises(hostd.HostError):
        gone.deploy_model("m", files, progress=lambda *_: gone.close())
    await_tidy(models)
    assert entries(models) == []


# Requests in bad faith

BAD_WRITES = {
    "an index too high": ({"file": 2}, hostd.InvalidArgumentError),
    "a negative index": ({"file": -1}, hostd.InvalidArgumentError),
    "an index that is no number": ({"file": "model.py"}, hostd.InvalidArgumentError),
    "an index that is a truth": ({"file": True}, hostd.InvalidArgumentError),
    "a negative offset": ({"offset": -1}, hostd.InvalidArgumentError),
    "an offset behind the end": ({"offset": 5}, hostd.InvalidArgumentError),
    "an enormous offset": ({"offset": 2**63}, hostd.InvalidArgumentError),
    "one byte too much": ({"data": b"12345"}, hostd.InvalidArgumentError),
    "one byte over the end": ({"offset": 1}, hostd.InvalidArgumentError),
    "text for data": ({"data": "1234"}, hostd.InvalidArgumentError),
    "nothing for data": ({"data": None}, hostd.InvalidArgumentError),
    "an argument too many": ({"path": "/etc/passwd"}, hostd.InvalidArgumentError),
    "an upload that is not": ({"upload": 2**60}, hostd.NotFoundError),
    "an upload that is no number": ({"upload": "1"}, hostd.InvalidArgumentError),
    "more than a piece may have": ({"data": bytes(2 * MIB)}, hostd.InvalidArgumentError),
}


def test_c30_a_bad_piece_is_refused_and_the_upload_goes_on(deploying, raw, models):
    upload = raw.ask("deploy_begin", model_id="m", files=[["text", 4], ["model.py", len(CODE)]])["upload"]
    write = {"upload": upload, "file": 0, "offset": 0, "data": b"1234"}
    for name, (arguments, kind) in BAD_WRITES.items():
        assert isinstance(raw.refusal("deploy_write", **{**write, **arguments}), kind), name
    with Raw(deploying.endpoint) as thief:
        for verb, more in (("deploy_write", write), ("deploy_commit", {}), ("deploy_abort", {})):
            assert isinstance(thief.refusal(verb, **{"upload": upload, **more}), hostd.NotFoundError)
    raw.ask("deploy_write", upload=upload, file=1, offset=0, data=CODE)
    for offset, data in ((2, b"34"), (0, b"12"), (1, b"23")):  # the same again does no harm
        raw.ask("deploy_write", upload=upload, file=0, offset=offset, data=data)
    assert raw.ask("deploy_commit", upload=upload)["state"] == "READY"
    await_tidy(models)
    assert content(models / "m") == {"model.py": CODE, "text": b"1234"}


def test_c30_a_commit_of_too_little_is_refused_and_leaves_nothing(raw, models):
    for written in ([], [(0, b"12")], [(0, b"1"), (2, b"34")]):
        upload = raw.ask("deploy_begin", model_id="m", files=[["model.py", 4], ["empty", 0]])["upload"]
        for offset, data in written:
            raw.ask("deploy_write", upload=upload, file=0, offset=offset, data=data)
        error = raw.refusal("deploy_commit", upload=upload)
        assert isinstance(error, hostd.FailedPreconditionError)
        assert "lacks" in error.message
        assert entries(models) == []


def test_c30_what_comes_after_a_commit_or_an_abort_is_refused(raw, models, tmp_path):
    gate = tmp_path / "gate"
    upload = raw.upload("m", files_of(f"gated {gate}"))
    first, second = raw.begin("deploy_commit", upload=upload), raw.begin("deploy_commit", upload=upload)
    with pytest.raises(hostd.NotFoundError):
        raw.answer(second)
    eventually(lambda: Path(f"{gate}.reached").exists(), "the model loads")
    late = raw.refusal("deploy_write", upload=upload, file=0, offset=0, data=b"late")
    assert isinstance(late, hostd.FailedPreconditionError)
    assert isinstance(raw.refusal("deploy_abort", upload=upload), hostd.NotFoundError)
    gate.touch()
    assert raw.answer(first)["state"] == "READY"
    await_tidy(models)
    assert content(models / "m") == files_of(f"gated {gate}")
    aborted = raw.upload("n", files_of("n"))
    raw.ask("deploy_abort", upload=aborted)
    assert entries(models) == ["m"]
    for verb, more in (
        ("deploy_commit", {}),
        ("deploy_abort", {}),
        ("deploy_write", {"file": 0, "offset": 0, "data": b""}),
    ):
        assert isinstance(raw.refusal(verb, upload=aborted, **more), hostd.NotFoundError)


def test_c30_more_than_8_mib_unanswered_is_refused(raw, models):
    upload = raw.ask("deploy_begin", model_id="m", files=[["model.py", 1], ["weights.bin", 40 * MIB]])["upload"]
    raw.ask("deploy_write", upload=upload, file=0, offset=0, data=b"x")
    (file,) = (models / STAGING).glob("*/model.py")
    file.unlink()
    os.mkfifo(file)  # a disk that hangs: opening it to write waits for a reader
    try:
        stuck = raw.begin("deploy_write", upload=upload, file=0, offset=0, data=b"")
        pieces = range(0, 8 * MIB, MIB)
        sent = [raw.begin("deploy_write", upload=upload, file=1, offset=offset, data=bytes(MIB)) for offset in pieces]
        too_much = {"upload": upload, "file": 1, "offset": 8 * MIB}
        assert isinstance(raw.refusal("deploy_write", **too_much, data=b"x"), hostd.ResourceExhaustedError)
        empty = [raw.begin("deploy_write", **too_much, data=b"") for _ in range(UNANSWERED_CHUNKS - len(sent) - 1)]
        assert isinstance(raw.refusal("deploy_write", **too_much, data=b""), hostd.ResourceExhaustedError)
        with open(file, "rb"):
            for request in (*sent, *empty):
                assert raw.answer(request) is None, "what was under way is written when the disk works again"
            assert raw.answer(stuck) is None
            assert raw.ask("deploy_write", **too_much, data=b"x") is None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))  # so that nothing waits for it any more
    raw.ask("deploy_abort", upload=upload)
    assert entries(models) == []
