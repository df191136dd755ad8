"""Deploys, replacements and undeploys on the disk as they should go, and what is refused before anything is written."""

import itertools
import os
import random
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import PATIENCE_S, eventually
from kernels import KERNELS
from path_corpus import FILE_VECTORS, ID_VECTORS, canary, plant
from staging_rig import FILES, begin, deploy, finish, names, on, tree, undeploy

from hostd.core.names import STAGING_NAME
from hostd.shell.deploys.ranges import MAX_PIECES, Ranges
from hostd_workers.wire.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)


@pytest.mark.parametrize("model_id", ["m", "team/m", "a/b/c/d", "モデル/数字", "~tilde"])
def test_c29_c30_what_was_written_is_there_and_nothing_is_seen_before_the_install(staging, models, model_id):
    upload, top = begin(staging, model_id), model_id.partition("/")[0]
    assert names(models) == [STAGING_NAME]
    assert upload.install() == models / model_id
    assert names(models) == sorted([STAGING_NAME, top])
    finish(upload)
    assert tree(models / model_id) == FILES
    assert names(models) == [top]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_what_is_deployed_is_not_for_everybody_and_for_the_group_as_the_umask_says(staging, models, umask):
    def check():
        for path in models.rglob("*"):
            if path.is_file() or path.is_dir():
                assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640) & ~umask, path

    before = os.umask(umask)
    try:
        upload = begin(staging, "team/m")
        check()
        upload.install()
        finish(upload)
    finally:
        os.umask(before)
    check()


def test_c29_pieces_may_come_in_any_order_from_many_threads_and_twice(staging):
    content = random.Random(7).randbytes(300_000)
    pieces = [(at, content[at : at + 1000]) for at in range(0, len(content), 1000)]
    random.Random(8).shuffle(pieces)
    upload = staging.begin("m", [("a", len(content)), ("b", len(content))], replace=False)
    with ThreadPoolExecutor(8) as threads:
        for index in (0, 1):
            list(threads.map(lambda piece, index=index: upload.write(index, *piece), pieces + pieces[:20]))
    place = upload.install()
    assert (place / "a").read_bytes() == (place / "b").read_bytes() == content
    upload.roll_back()


def test_c29_a_deploy_over_a_model_is_refused_before_and_at_the_install(staging, models):
    first, second = begin(staging), begin(staging)
    first.install()
    with pytest.raises((AlreadyExistsError, AbortedError)):
        second.install()
    second.roll_back()
    finish(first)
    with pytest.raises(AlreadyExistsError, match="undeploy it first"):
        begin(staging)
    assert names(models) == ["m"]


def test_c30_of_many_deploys_of_one_id_at_most_one_is_installed_at_a_time(staging, models):
    uploads = [begin(staging, "team/m", {"a": b"%d" % index}) for index in range(8)]

    def install(upload):
        try:
            upload.install()
        except (AlreadyExistsError, AbortedError):
            upload.roll_back()
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(install, uploads))
    assert sum(won) <= 1
    for upload, is_winner in zip(uploads, won, strict=True):
        if is_winner:
            finish(upload)
            assert tree(models) == {"team/m/a": b"%d" % uploads.index(upload)}
    assert STAGING_NAME not in names(models)
    if not any(won):
        assert deploy(staging, "team/m")


def test_c30_something_else_put_there_meanwhile_is_not_replaced(staging, models):
    upload = begin(staging)
    (models / "m").mkdir()
    with pytest.raises(AlreadyExistsError):
        upload.install()
    upload.discard()
    assert names(models) == ["m"]
    assert names(models / "m") == []


def test_c17_c32_an_id_below_a_plain_file_is_taken_and_a_folder_of_models_is_not_replaced(staging, models):
    deploy(staging, "team/m")
    for content in (b"", b"x"):
        (models / "file").write_bytes(content)
        before = canary(models)
        for model_id in ("file", "file/m", "file/a/b"):
            with pytest.raises(AlreadyExistsError):
                begin(staging, model_id)
        with pytest.raises(FailedPreconditionError, match="a folder with models in it"):
            begin(staging, "team", replace=True)
        assert canary(models) == before


@pytest.mark.parametrize("step", ["install", "roll_back"])
def test_c30_an_end_waits_for_a_piece_that_is_being_written(models, step):
    is_writing, may_write = threading.Event(), threading.Event()

    def before(name, arguments):
        if name == "pwrite" and arguments[1] == b"piece":
            is_writing.set()
            assert may_write.wait(PATIENCE_S)

    staging = on(models, KERNELS["new"](), before)
    upload = staging.begin("m", [("a", 5)], replace=False)
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(upload.write, 0, 0, b"piece")
        assert is_writing.wait(PATIENCE_S)
        ending = threads.submit(getattr(upload, step))
        try:
            eventually(lambda: upload._writes._waiters, "the end waits")
            assert not ending.done()
        finally:
            may_write.set()
        writing.result()
        ending.result()
    assert tree(models / "m") == ({"a": b"piece"} if step == "install" else {})
    upload.roll_back()
    assert names(models) == []


@pytest.mark.parametrize("model_id", ["m", "team/m"])
@pytest.mark.parametrize("old", [{"model.yaml": b"old", "old/x": b"1"}, {}], ids=["a model", "nothing"])
def test_c32_a_replacement_of(staging, models, model_id, old):
    """It is seen at once, and the old one comes back."""
    if old:
        deploy(staging, model_id, old)
    upload = begin(staging, model_id, replace=True)
    assert tree(models / model_id) == old
    upload.install()
    assert tree(models / model_id) == FILES
    upload.roll_back()
    assert tree(models / model_id) == old
    deploy(staging, model_id, replace=True)
    assert tree(models / model_id) == FILES
    assert STAGING_NAME not in names(models)


@pytest.fixture
def planted(models, tmp_path):
    (tmp_path / "outside").mkdir()
    return plant(models, tmp_path / "outside")


@pytest.mark.usefixtures("planted")
def test_c29_no_name_of_the_corpus_reaches_the_disk(staging, tmp_path):
    before = canary(tmp_path)
    for name in ID_VECTORS.values():
        for act in (lambda name=name: begin(staging, name, replace=True), lambda name=name: staging.remove(name)):
            with pytest.raises(InvalidArgumentError):
                act()
    for name in FILE_VECTORS.values():
        with pytest.raises(InvalidArgumentError):
            begin(staging, "new", {"model.yaml": b"", name: b""})
    assert canary(tmp_path) == before


def test_c29_c31_nothing_planted_is_replaced_removed_or_followed(staging, tmp_path, planted):
    before = canary(tmp_path)
    for what, name in planted.items():
        for model_id, replace in itertools.product((name, f"{name}/new"), (False, True)):
            with pytest.raises((AlreadyExistsError, FailedPreconditionError)):
                pytest.fail(f"{what}: {begin(staging, model_id, replace=replace)}")
        with pytest.raises((NotFoundError, FailedPreconditionError)):
            pytest.fail(f"{what}: {staging.remove(name)}")
    assert canary(tmp_path) == before


@pytest.mark.parametrize("size", [-1, 1.5, "7", None, True, 2**63])
def test_c29_a_size_is_a_number_of_bytes(staging, models, size):
    with pytest.raises(InvalidArgumentError, match="must be a number of bytes"):
        staging.begin("m", [("a", size)], replace=False)
    assert names(models) == []


def test_c29_c30_a_piece_that_does_not_fit_is_refused_and_an_upload_with_holes_is_not_installed(staging, models):
    upload = staging.begin("m", [("a", 10), ("b", 0)], replace=False)
    for piece in ((2, 0, b""), (-1, 0, b""), (0, -1, b"x"), (0, 8, b"xyz"), (0, 11, b"")):
        with pytest.raises(InvalidArgumentError):
            upload.write(*piece)
    upload.write(0, 0, b"xxx")
    upload.write(0, 6, b"xxxx")
    with pytest.raises(FailedPreconditionError, match="'a' lacks 3 of its 10 bytes"):
        upload.install()
    upload.write(0, 2, b"xxxxx")
    upload.install()
    upload.roll_back()
    assert names(models) == []


def test_steps_out_of_turn_are_refused(staging, models):
    upload = begin(staging)
    for step in (upload.confirm, upload.clean):
        with pytest.raises(FailedPreconditionError):
            step()
    upload.install()
    for step in (upload.install, upload.discard, upload.clean, lambda: upload.write(0, 0, b"x")):
        with pytest.raises(FailedPreconditionError):
            step()
    assert "of m MOVED>" in repr(upload)
    upload.confirm()
    for step in (upload.install, upload.confirm, upload.roll_back):
        with pytest.raises(FailedPreconditionError):
            step()
    for _ in range(2):
        upload.clean()
    upload.roll_back()
    assert tree(models / "m") == FILES


def test_c30_what_is_confirmed_was_flushed_before_in_the_right_order(models, kernel):
    told = []
    deploy(on(models, kernel, lambda name, arguments: told.append((name, arguments))))
    order = [name for name, _ in told]
    move = max(index for index, name in enumerate(order) if name in {"renameat2", "rename"})
    mark = max(index for index, name in enumerate(order) if name == "pwrite")
    assert order[:move].count("fsync") == len(FILES)
    last_file = max(index for index, name in enumerate(order) if name == "fsync")
    assert order[last_file:move].count("fsync_directory") == len(["m", "m/weights", "m/weights/deep"])
    assert order.index("pwrite") < order.index("fsync_directory", order.index("pwrite")) < order.index("fsync")
    assert order[move + 1 : mark].count("fsync_directory") == 2
    assert [len(arguments[1]) for name, arguments in told[mark : mark + 1]] == [1], "the commitment is one byte"
    assert "unlink" not in order[:mark]
    entries = [arguments for name, arguments in told if name == "open" and arguments[0].endswith(".json")]
    assert [arguments[1] & os.O_DSYNC for arguments in entries] == [os.O_DSYNC]


def test_ranges_join_and_are_bounded():
    ranges = Ranges(100)
    for start, end in ((10, 20), (30, 40), (0, 0), (15, 35), (40, 50), (0, 10)):
        ranges.add(start, end)
    assert ranges.missing == 50
    assert "[(0, 50)]" in repr(ranges)
    many = Ranges(10 * MAX_PIECES)
    for index in range(MAX_PIECES):
        many.add(2 * index, 2 * index + 1)
    with pytest.raises(ResourceExhaustedError):
        many.add(5 * MAX_PIECES, 5 * MAX_PIECES + 1)
    many.add(1, 2)


@pytest.mark.parametrize("model_id", ["m", "team/m", "a/b/c/d"])
def test_c31_an_undeploy_takes_all_of_it_and_empty_folders(staging, models, model_id):
    deploy(staging, model_id)
    staging.check(model_id)
    removal = staging.remove(model_id)
    assert not (models / model_id).exists()
    finish(removal)
    assert names(models) == []
    with pytest.raises(NotFoundError, match="there is no model"):
        staging.remove(model_id)


def test_c31_an_undeploy_can_be_undone(staging, models):
    deploy(staging, "team/m")
    before = canary(models)
    removal = staging.remove("team/m")
    (models / "team").rmdir()  # as another host does that finds it empty
    removal.roll_back()
    assert canary(models) == before


def test_c31_a_folder_of_models_is_no_model(staging, models):
    deploy(staging, "team/group/m")
    (models / "team" / ".gitkeep").write_bytes(b"")
    before = canary(models)
    for folder in ("team", "team/group"):
        with pytest.raises(NotFoundError, match="a folder with models in it; undeploy those"):
            staging.remove(folder)
    assert canary(models) == before


def test_c31_all_of_a_wide_tree_is_removed_and_no_link_in_it_is_followed(staging, models, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    deploy(staging)
    for index in range(50):
        (models / "m" / f"{index}" / "x").mkdir(parents=True)
        (models / "m" / f"{index}" / "x" / "y").write_text("")
    (models / "m" / "link").symlink_to(tmp_path / "outside")
    (models / "m" / "weights" / "link").symlink_to(tmp_path / "outside" / "precious")
    os.mkfifo(models / "m" / "fifo")
    undeploy(staging)
    assert names(models) == []
    assert (tmp_path / "outside" / "precious").read_text() == "x"


def test_c31_a_tree_of_any_depth_is_removed(staging, models):
    (models / "m").mkdir()
    (models / "m" / "model.yaml").write_text("")
    at = os.open(models / "m", os.O_RDONLY)
    for _ in range(1100):  # deeper than a path may be long, and than Python recurses
        os.mkdir("d" * 9, dir_fd=at)
        inner = os.open("d" * 9, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    undeploy(staging)
    assert names(models) == []


def test_c31_a_tree_that_is_moved_while_it_is_removed_leads_nowhere_else(models, kernel, tmp_path):
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    moved = []

    def before(name, arguments):
        if name == "open" and arguments[0] == ".." and not moved:
            (inner,) = models.glob(".hostd-staging/*/inner")
            moved.append(inner.rename(outside / "moved"))

    (models / "m" / "inner").mkdir(parents=True)
    (models / "m" / "file").write_text("")
    removal = on(models, kernel, before).remove("m")
    removal.confirm()
    with pytest.raises(HostError, match="was moved while it was being removed"):
        removal.clean()
    assert names(outside) == ["inner", "moved"]
    removal.clean()
    assert names(models) == []


def test_c31_a_model_of_one_file_and_an_empty_directory_can_be_undeployed(staging, models):
    (models / "m.joblib").write_bytes(b"x")
    (models / "empty").mkdir()
    for name in ("m.joblib", "empty"):
        staging.remove(name).roll_back()
        assert (models / name).exists()
        undeploy(staging, name)
    assert names(models) == []
