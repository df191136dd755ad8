"""Where a host keeps its files when the user has no home, and what is said of a place that is of no use."""

import os

import pytest

from hostd import paths
from hostd.config.loading import load_config
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError


@pytest.mark.parametrize("home", [None, "/nonexistent", "relative", ""])
def test_without_a_home_the_state_is_in_the_runtime_directory(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("os.access", lambda path, mode: False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    config = load_config({"name": "b"})
    assert config.state_dir == config.runtime_dir / "state"
    assert load_config({"runtime_dir": tmp_path}).state_dir == tmp_path / "state"


def test_a_home_that_nobody_knows_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(InvalidArgumentError, match=r"state_dir.*'~/state': no home directory is known.* set HOME"):
        load_config({"state_dir": "~/state"})
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", "~/run")
    with pytest.raises(InvalidArgumentError, match="'~/run': no home directory"):
        paths.default_endpoint()
    (tmp_path / "hostd.yaml").write_text("models: {dir: ~/models}")
    with pytest.raises(InvalidArgumentError, match="'~/models': no home directory"):
        load_config(file=tmp_path / "hostd.yaml", environment=False)


def test_a_directory_that_cannot_be_made_is_told_with_the_variable_and_the_setting(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(FailedPreconditionError, match=r"XDG_RUNTIME_DIR is .*/file\).*Not a directory.*--runtime-dir"):
        paths.make_private(load_config().runtime_dir)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(FailedPreconditionError, match=r"XDG_STATE_HOME is .*HOSTD_STATE_DIR"):
        paths.make_state(load_config().state_dir)
    with pytest.raises(FailedPreconditionError, match="is not a directory"):
        paths.make_state(tmp_path / "file")


def test_without_a_temporary_directory_there_is_a_word_about_it(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(FailedPreconditionError, match="set XDG_RUNTIME_DIR or TMPDIR"):
        load_config()


def test_directories_above_are_private_too_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        paths.make_private(tmp_path / "a" / "b" / "c")
        paths.make_state(tmp_path / "d" / "e")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")} == {0o700}
