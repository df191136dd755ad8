"""The state directory: this user's alone, whatever was there before and whatever the umask, and no link leads out."""

import os
import stat

import pytest
from helpers import eventually
from strangers import needs_root, new_user

import hostd
from hostd import paths
from hostd.shell.processes import losses
from hostd.shell.processes.logs import ModelLog

CAP_BYTES = 1 << 20


def _modes(directory):
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (directory, *directory.rglob("*"))}


@pytest.mark.parametrize("before", [None, 0o755, 0o750, 0o2750], ids=["none", "0755", "0750", "setgid"])
def test_what_a_host_keeps_is_for_its_user_alone_whatever_the_umask(tmp_path, serve, model_dir, before):
    state = tmp_path / "state"
    if before is not None:
        (state / "logs").mkdir(parents=True)
        state.chmod(before)
        (state / "logs").chmod(0o777)
    mask = os.umask(0)
    try:
        service = serve(memory={"remember": "host"}, state_dir=state)
        with hostd.connect(service.endpoint) as client:
            client.load_model("m", model_dir("def load(path): print('hello', flush=True); return print"))
            eventually(lambda: {"m.log", "sizes.sqlite"} <= set(_modes(state)), "log and size are written")
            client.shutdown()
        assert service.ended() == 0
    finally:
        os.umask(mask)
    modes = _modes(state)
    assert {name: mode & 0o777 for name, mode in modes.items()} == {
        name: 0o700 if name in ("state", "logs") else 0o600 for name in modes
    }


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_state_directory_that_others_may_write_is_refused(tmp_path, mode):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(hostd.FailedPreconditionError, match=r"may be written by others.*chmod 0700.*--state-dir"):
        paths.make_state(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == mode


def test_a_directory_with_other_things_in_it_is_not_closed_behind_its_users_back(tmp_path):
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "thesis").touch()
    with pytest.raises(
        hostd.FailedPreconditionError, match=r"it holds thesis; choose one in it, such as .*/home/hostd"
    ):
        paths.make_state(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755
    (tmp_path / "home").chmod(0o700)
    paths.make_state(tmp_path / "home")


@needs_root
@pytest.mark.parametrize("what", ["state", "above", "link", "logs"])
def test_what_another_user_made_first_is_refused(tmp_path, what):
    state, user = tmp_path / "above" / "state", new_user()
    (state / "logs").mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    wrong = {"state": state, "above": state.parent, "link": tmp_path / "link", "logs": state / "logs"}[what]
    if what == "link":
        wrong.symlink_to(state)
        state = wrong
    os.lchown(wrong, user, user)
    with pytest.raises(hostd.FailedPreconditionError, match=f"belongs to user {user}|control of other users"):
        paths.make_state(state)
        paths.make_own(state / "logs")


def test_logs_do_not_follow_links(tmp_path, caplog):
    logs, precious = tmp_path / "logs", tmp_path / "precious"
    logs.mkdir(mode=0o700)
    precious.write_text("precious")
    for name in ("m.log", "n.log.1"):
        (logs / name).symlink_to(precious)
    ModelLog(logs, "m", CAP_BYTES).append(b"evil\n")
    full = ModelLog(logs, "n", 4)
    for _ in range(5):
        full.append(b"x" * 65536)
    assert precious.read_text() == "precious"
    assert "cannot write" in caplog.text
    logs.rename(tmp_path / "elsewhere")
    logs.symlink_to(tmp_path / "elsewhere")
    ModelLog(logs, "o", CAP_BYTES).append(b"evil\n")
    assert not (tmp_path / "elsewhere" / "o.log").exists()
    with pytest.raises(hostd.FailedPreconditionError, match=r"logs.*cannot be used"):
        paths.make_own(logs)


# A disk that is full


def test_a_flood_on_a_full_disk_is_one_warning_and_one_when_it_is_over(tmp_path, caplog, monkeypatch):
    directory = tmp_path / "logs"
    directory.mkdir(mode=0o700)
    trouble = losses.Losses()
    models = [ModelLog(directory, name, CAP_BYTES, trouble) for name in ("a", "b")]
    for log in models:
        log.append(b"before, and half a li")
    monkeypatch.setattr(os, "open", _full(os.open))
    for _ in range(5_000):
        for log in models:
            log.append(b"x" * 100)
    monkeypatch.undo()
    assert len(caplog.records) == 1
    assert f"is being lost: cannot write {directory}/a.log: No space left on device" in caplog.text
    models[0].append(b"after\n")
    assert len(caplog.records) == 1, "it may be full again in a moment"
    monkeypatch.setattr(losses, "OVER_AFTER_S", 0.0)
    models[1].append(b"after\n")
    assert "is kept again" in caplog.records[1].getMessage()
    assert "in 10000 writes were lost (No space left on device)" in caplog.records[1].getMessage()
    models[1].append(b"more\n")
    assert len(caplog.records) == 2
    for log in models:
        assert b"before, and half a li" in log.page(0, 0).data
        assert b"bytes before this are lost" in log.page(0, 0).data
        assert log.tail(1000).splitlines()[:2] == [b"before, and half a li", b"after"]


def _full(real):
    def refuse(path, flags, mode=0o777, *, dir_fd=None):
        if str(path).endswith(".log") and flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return real(path, flags, mode, dir_fd=dir_fd)

    return refuse


def test_a_trouble_of_one_file_does_not_hide_that_of_another(tmp_path, caplog):
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    trouble = losses.Losses()
    for name in ("a", "b"):
        (logs / f"{name}.log").mkdir()
        for _ in range(100):
            ModelLog(logs, name, CAP_BYTES, trouble).append(b"x")
    assert [record.getMessage().partition(".log")[0][-1] for record in caplog.records] == ["a", "b"]
