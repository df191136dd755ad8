"""What a model was deployed with, beside its files: written, read strictly, and changed by pins alone."""

import errno
import json
import os
import stat

import pytest
from helpers import named
from staging_rig import FILES, begin, deploy, finish, names, on, sizes
from walking_rig import digest_of

from hostd.core.names import KEPT_NAME
from hostd.core.standing import Standing
from hostd.shell.deploys.staging import Staging
from hostd.shell.linux.syscalls import SystemCalls
from hostd.shell.repository import kept
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError

ALL = Standing(
    "talker",
    "f",
    "i",
    {"a": [1, {"b": None}], "c": float("inf"), "d": "ü"},
    2,
    is_pinned=True,
    is_kept=True,
    labels={"team": "a"},
    loader="m:f",
)


@pytest.fixture
def staging(models):
    return Staging(ModelsDirectory(models))


def install(staging, standing, *, replace=False):
    upload = begin(staging, replace=replace)
    upload.install(standing)
    finish(upload)


@pytest.mark.parametrize("standing", [ALL, Standing(is_kept=True), Standing(is_pinned=False, is_kept=True)])
def test_what_is_kept_is_read_again(staging, models, standing):
    (models / "file").write_text("x")
    for path in (models, models / "file", models / "none"):
        assert kept.read(str(path)) is None
    install(staging, standing)
    assert kept.read(str(models / "m")) == standing
    assert stat.S_IMODE((models / "m" / KEPT_NAME).stat().st_mode) & 0o600 == 0o600


DAMAGED = [
    (b"", "no JSON"),
    (b"{", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b"[" * 10_000, "no JSON"),
    (b"{}" + b" " * kept.MAX_BYTES, "more than 65536 bytes"),
    ([], "must be a map"),
    ({}, "and this host knows 1"),
    ({"version": 2}, "its version is 2"),
    ({"version": 1, "optoins": {}}, "unknown key 'optoins'; did you mean 'options'"),
    ({"version": 1, "type": 5}, "type must be text"),
    ({"version": 1, "finder": []}, "finder must be text"),
    ({"version": 1, "initializer": None}, "initializer must be text"),
    ({"version": 1, "options": []}, "options must be a map"),
    ({"version": 1, "options": {"a": 1 << 70}}, "options.a must be a number"),
    ({"version": 1, "retries": -1}, "retries must be a number from 0 to 100"),
    ({"version": 1, "retries": True}, "retries must be"),
    ({"version": 1, "retries": 101}, "retries must be"),
    ({"version": 1, "pinned": 1}, "pinned must be true or false"),
    ({"version": 1, "labels": []}, "labels must be a map of texts"),
    ({"version": 1, "labels": {"team": "-"}}, "the label 'team' cannot be '-'"),
]


@pytest.mark.parametrize(("content", "words"), DAMAGED, ids=named)
def test_a_damaged_file_is_refused_with_what_is_wrong_and_what_to_do(staging, models, content, words):
    deploy(staging)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (models / "m" / KEPT_NAME).write_bytes(data)
    with pytest.raises(InvalidArgumentError) as refused:
        kept.read(str(models / "m"))
    assert words in refused.value.message
    assert "hostd deploy --replace" in refused.value.message
    with pytest.raises(InvalidArgumentError, match="is damaged"):
        staging.keep_pin("m", is_pinned=True)


PLANTED = {"a link": lambda place: place.symlink_to("/etc/hostname"), "a pipe": os.mkfifo, "a directory": os.mkdir}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_is_no_file_is_not_read(staging, models, plant):
    deploy(staging)
    plant(models / "m" / KEPT_NAME)
    with pytest.raises((InvalidArgumentError, FailedPreconditionError), match=KEPT_NAME):
        kept.read(str(models / "m"))


@pytest.mark.parametrize(
    "options", [{"a": (1,)}, {"a": {"b": b"x"}}, {"a": {1: 2}}, {"a": "x" * kept.MAX_BYTES}], ids=named
)
def test_options_that_it_cannot_hold_are_refused(options):
    with pytest.raises(InvalidArgumentError, match="beside the model's files"):
        kept.packed(Standing(options=options))


def test_a_pin_changes_nothing_else(staging, models):
    install(staging, ALL._replace(is_pinned=None))
    before = (models / "m" / KEPT_NAME).stat().st_ino
    staging.keep_pin("m", is_pinned=False)
    assert (models / "m" / KEPT_NAME).stat().st_ino == before  # that is what it says already
    (models / "m" / f"{KEPT_NAME}.new").write_text("what a kill has left")
    for is_pinned in (True, False):
        staging.keep_pin("m", is_pinned=is_pinned)
        assert kept.read(str(models / "m")) == ALL._replace(is_pinned=is_pinned)
    assert names(models / "m") == sorted([KEPT_NAME, *{name.partition("/")[0] for name in FILES}])


@pytest.mark.parametrize("what", ["no file", "no model", "a link"])
def test_a_pin_that_cannot_be_written_says_so(staging, models, tmp_path, what):
    deploy(staging)
    if what == "no model":
        os.rename(models / "m", tmp_path / "m")
    if what == "a link":
        os.rename(models / "m", tmp_path / "m")
        (models / "m").symlink_to(tmp_path / "m")
    with pytest.raises(Exception, match="cannot keep the pin of 'm'"):
        staging.keep_pin("m", is_pinned=True)


def test_a_disk_that_is_full_leaves_the_old_pin(models):
    is_full = []

    def before(name, arguments):
        if name == "fsync" and is_full and KEPT_NAME in os.readlink(f"/proc/self/fd/{arguments[0]}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    staging = on(models, SystemCalls(), before)
    install(staging, ALL)
    is_full.append(1)
    with pytest.raises(ResourceExhaustedError, match="cannot keep the pin"):
        staging.keep_pin("m", is_pinned=False)
    assert kept.read(str(models / "m")) == ALL


@pytest.mark.parametrize("before", ["pinned", "not pinned", "damaged", "nothing", "a file"])
def test_a_replacement_keeps_a_pin_of_which_nobody_else_knows(staging, models, before):
    if before in ("pinned", "not pinned"):
        install(staging, Standing(is_pinned=before == "pinned"))
    elif before == "a file":
        (models / "m").write_text("x")
    elif before == "damaged":
        deploy(staging)
        (models / "m" / KEPT_NAME).write_text("{")
    install(staging, Standing(options={"a": 1}), replace=True)
    expected = {"pinned": True, "not pinned": False}.get(before)
    assert kept.read(str(models / "m")) == Standing(options={"a": 1}, is_pinned=expected, is_kept=True)
    install(staging, Standing(is_pinned=False), replace=True)  # what knows it decides
    assert kept.read(str(models / "m")) == Standing(is_pinned=False, is_kept=True)


def test_it_is_no_content(staging, models):
    install(staging, ALL)
    digest = digest_of(models / "m")
    staging.keep_pin("m", is_pinned=False)
    assert digest_of(models / "m") == digest
    (models / "m" / KEPT_NAME).unlink()
    assert digest_of(models / "m") == digest
    (models / "m" / "weights" / KEPT_NAME).write_text("a model's own")
    assert digest_of(models / "m") != digest


def test_folders_and_executables_are_made(staging, models):
    upload = staging.begin(
        "m", sizes({"a": b"", "b/c": b""}), replace=False, folders=["b/d/e", "f"], executables=["b/c"]
    )
    upload.install()
    finish(upload)
    assert sorted(str(path.relative_to(models)) for path in models.rglob("*")) == [
        *("m", "m/a", "m/b", "m/b/c", "m/b/d", "m/b/d/e", "m/f")
    ]
    assert [os.access(models / "m" / name, os.X_OK) for name in ("a", "b/c")] == [False, True]
    with pytest.raises(InvalidArgumentError, match="as the folder of another file"):
        staging.begin("n", sizes({"a": b""}), replace=False, folders=["a/b"])
