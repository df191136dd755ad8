"""Where a model is below its models directory: no name and no link leads out of it, on new kernels and old ones."""

import errno
import itertools
import os

import pytest
from kernels import KERNELS, OldKernel, Watched
from path_corpus import DEVICES, ID_VECTORS, canary, plant

from hostd.shell.linux.syscalls import LOOK, SystemCalls
from hostd.shell.repository.directory import ModelsDirectory, look, open_beneath, open_directory
from hostd_workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError, ResourceExhaustedError


@pytest.fixture
def directory(models, kernel):
    return ModelsDirectory(models, calls=kernel)


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.fixture
def at(models):
    """A descriptor of the models directory."""
    fd = os.open(models, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_c17_a_directory_a_file_and_a_nested_model_are_found_and_nothing_is_none(directory, models):
    (models / "team" / "model").mkdir(parents=True)
    (models / "one.joblib").write_bytes(b"")
    (models / "モデル").mkdir()
    for name in ("team/model", "team", "one.joblib", "モデル"):
        assert directory.locate(name) == models / name
    for name in ("nothing", "team/nothing", "no/such/folder", "one.joblib/below", "team/model/below/it"):
        assert directory.locate(name) is None


def test_c29_no_name_of_the_corpus_is_looked_for(directory):
    for what, name in ID_VECTORS.items():
        with pytest.raises(InvalidArgumentError):
            pytest.fail(f"{what}: found at {directory.locate(name)}")
        with pytest.raises(InvalidArgumentError):
            directory.path_of(name)


def test_c29_what_is_planted_is_refused_by_kind_and_unchanged(directory, models, tmp_path, outside):
    planted, seen = plant(models, outside), {}
    before = canary(tmp_path)
    for what, name in planted.items():
        with pytest.raises(FailedPreconditionError) as error:
            pytest.fail(f"{what}: {directory.locate(name)}")
        seen[what] = error.value.message
    assert canary(tmp_path) == before
    assert directory.locate("real") == models / "real"
    assert directory.locate("folder") == models / "folder"
    for what in ("a link out", "a link in", "a dangling link", "a link to itself", "a magic link"):
        assert "is a symbolic link" in seen[what]
    for what in ("below a link out", "through the root", "through the models directory", "below a magic link"):
        assert "on the way to" in seen[what]
    for what, kind in (("a fifo", "fifo"), ("a socket", "socket"), *dict.fromkeys(DEVICES, "device").items()):
        assert what not in planted or f"is a {kind}" in seen[what]


@pytest.mark.parametrize(
    "path", ["..", "../outside", "real/../../outside", "/etc", "/", "link-out", "link-out/inner", "link-in"]
)
def test_the_system_call_itself_refuses_to_leave(kernel, models, outside, at, path):
    plant(models, outside)
    with pytest.raises(OSError, match=f"{os.strerror(errno.EXDEV)}|{os.strerror(errno.ELOOP)}"):
        os.close(open_directory(kernel, at, path))


def test_both_kernels_open_and_refuse_alike(models, outside, at):
    def outcome(kernel, path, flags):
        try:
            os.close(open_beneath(kernel(), at, path, flags))
        except OSError as error:
            return error.errno
        return "open"

    paths = [*plant(models, outside).values(), "real", "folder", "nothing", "real/model.yaml", "real/model.yaml/x"]
    flags = [LOOK, LOOK | os.O_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, os.O_WRONLY | os.O_NONBLOCK]
    for path, flag in itertools.product([*paths, "../outside", "/etc"], flags):
        both = {outcome(kernel, path, flag) for kernel in KERNELS.values()}
        assert len(both) == 1 or both <= {errno.ELOOP, errno.ENOTDIR}, (path, flag)


def test_a_container_that_forbids_the_new_call_is_an_old_kernel_and_the_fallback_closes_what_it_opens(models):
    class Forbidding(SystemCalls):
        def openat2(self, *arguments):
            raise PermissionError(errno.EPERM, "filtered")

    (models / "a" / "b" / "c").mkdir(parents=True)
    for calls in (Forbidding(), OldKernel()):
        directory, before = ModelsDirectory(models, calls=calls), len(os.listdir("/proc/self/fd"))
        for name in ("a/b/c", "a/b/nothing", "a/nothing/c", "nothing/b/c"):
            assert directory.locate(name) == (models / name if name == "a/b/c" else None)
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_models_directory_itself_may_be_a_link_and_a_relative_path_stays_what_it_was(tmp_path, kernel, monkeypatch):
    (tmp_path / "real" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    directory = ModelsDirectory("link", calls=kernel)
    monkeypatch.chdir("/")
    assert directory.locate("m") == tmp_path / "link" / "m"
    assert repr(directory) == f"<ModelsDirectory {tmp_path}/link>"


def test_c25_a_directory_that_was_away_or_replaced_is_found_again(directory, models):
    (models / "m").mkdir()
    assert directory.locate("m")
    models.rename(models.with_name("elsewhere"))
    with pytest.raises(FailedPreconditionError, match="is not there; create it"):
        directory.locate("m")
    models.write_bytes(b"")
    with pytest.raises(FailedPreconditionError, match="is not a directory"):
        directory.locate("m")
    models.unlink()
    models.mkdir()
    assert directory.locate("m") is None
    (models / "m").mkdir()
    assert directory.locate("m") == models / "m"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, HostError), (errno.EACCES, FailedPreconditionError), (errno.EMFILE, ResourceExhaustedError)],
)
def test_other_failures_of_the_system_are_typed(models, code, kind):
    (models / "m").mkdir()

    def before(name, _):
        if name == "fstat":
            raise OSError(code, os.strerror(code))

    with pytest.raises(kind, match=os.strerror(code)) as caught:
        ModelsDirectory(models, calls=Watched(SystemCalls(), before)).locate("m")
    assert type(caught.value) is kind
    assert caught.value.details == {"errno": code}


def test_a_null_byte_does_not_cut_a_path_and_a_c_library_without_the_call_is_an_old_kernel(models, at):
    (models / "m").mkdir()
    calls = SystemCalls()
    with pytest.raises(ValueError, match="null byte"):
        open_beneath(calls, at, "m\0x", LOOK)
    calls._libc = object()
    with pytest.raises(OSError, match="not implemented"):
        calls.renameat2("a", at, "b", at, 0)
    assert calls.reserve(at, 5) is None


def test_a_call_that_was_interrupted_is_repeated():
    import ctypes

    codes = [errno.EINTR, errno.EINTR, 0]

    def call():
        ctypes.set_errno(codes.pop(0))
        return 7 if not codes else -1

    assert SystemCalls._checked("x", call) == 7


def test_what_is_at_a_place_is_looked_at_without_opening_it(models, at):
    """Opening a fifo waits for its writer, and opening a device may do anything."""
    os.mkfifo(models / "fifo")
    flags = []
    calls = Watched(SystemCalls(), lambda name, arguments: name == "openat2" and flags.append(arguments[2]))
    with pytest.raises(FailedPreconditionError):
        look(calls, at, "fifo")
    assert len(flags) == 1
    assert flags[0] & os.O_PATH
