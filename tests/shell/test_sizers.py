"""Sizers: what a model on a disk is said to take, and in real hosts what one that hangs holds up."""

import asyncio
import os
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, never

import hostd
from hostd import sizers
from hostd.config.loading import load_config
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.plugins.registry import Plugins
from hostd.shell.repository.specifying import Specifying
from hostd.shell.sizes import predictor as module
from hostd.shell.sizes.predictor import SIZER_THREADS, Sizes
from hostd.shell.sizes.store import SizeKey, SizeStore
from hostd.sizers import DEFAULT_MULTIPLIER, DeclaredSizer, DirectorySizer, size_on_disk
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)


def write(file, size):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def test_c13_all_files_count_hidden_and_nested_ones_too_and_nothing_else(tmp_path):
    for name, size in (("a", 1), (".hidden", 10), ("sub/b", 100), ("sub/deep/er/c", 1000)):
        write(tmp_path / name, size)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("absent")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert size_on_disk(str(tmp_path)) == 1111
    assert size_on_disk(str(tmp_path / "sub" / "b")) == 100


def test_a_linked_file_or_directory_counts_once_with_the_size_of_its_target_and_a_circle_ends(tmp_path):
    blob = write(tmp_path / "elsewhere" / "weights", 1000)
    model, folders = tmp_path / "model", tmp_path / "folders"
    model.mkdir()
    for name in ("a", "b"):
        (model / name).symlink_to(blob)
    os.link(blob, model / "hard")
    assert size_on_disk(str(model)) == size_on_disk(str(model / "a")) == 1000
    write(folders / "a", 1)
    for link, target in (("weights", blob.parent), ("again", blob.parent), ("circle", folders)):
        (folders / link).symlink_to(target)
    (blob.parent / "back").symlink_to(folders)
    assert size_on_disk(str(folders)) == 1001


def test_files_and_directories_may_vanish_while_they_are_counted(tmp_path, monkeypatch):
    write(tmp_path / "stays", 5)
    for name in ("file", "directory"):
        write(tmp_path / name / "inside", 100)
    scandir = os.scandir

    def vanishing(path):
        if str(path).endswith("directory"):
            (tmp_path / "directory" / "inside").unlink()
            (tmp_path / "directory").rmdir()
        entries = scandir(path)
        if str(path).endswith("file"):
            (tmp_path / "file" / "inside").unlink()
        return entries

    monkeypatch.setattr(os, "scandir", vanishing)
    assert size_on_disk(str(tmp_path)) == 5


def test_c13_a_missing_path_is_not_found_and_one_that_cannot_be_a_model_is_a_typed_error(tmp_path):
    write(tmp_path / "file", 1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("", str(tmp_path / "absent"), str(tmp_path / "file" / "below")):
        with pytest.raises(NotFoundError, match="there is nothing at"):
            DirectorySizer().estimate("m", path, "t")
    for path, kind, words in (
        (str(tmp_path / "pipe"), InvalidArgumentError, "neither a file nor a directory"),
        ("a\0b", InvalidArgumentError, "null byte"),
        (str(tmp_path / "loop"), FailedPreconditionError, "symbolic links"),
    ):
        with pytest.raises(kind, match=words):
            size_on_disk(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not look")
def test_a_directory_that_the_host_may_not_read_is_not_left_out_silently(tmp_path, monkeypatch):
    write(tmp_path / "secret" / "weights", 100)
    (tmp_path / "secret").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the directories above are closed to others
    os.seteuid(65534)
    try:
        with pytest.raises(FailedPreconditionError, match="secret: user id 65534 may not read it"):
            size_on_disk(".")
    finally:
        os.seteuid(0)


def test_a_walk_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sizers, "MAX_ENTRIES", 3)
    for name in "abc":
        write(tmp_path / name, 1)
    assert size_on_disk(str(tmp_path)) == 3
    write(tmp_path / "d", 1)
    with pytest.raises(ResourceExhaustedError, match=r"more than 3 entries: say its size with 'size' in a model\.yaml"):
        size_on_disk(str(tmp_path))


def test_c13_the_bytes_are_multiplied_by_the_factor_of_the_type(tmp_path):
    path = str(write(tmp_path / "a", 1001))
    assert DirectorySizer().estimate("m", path, "t") == 1001 * DEFAULT_MULTIPLIER
    sizer = DirectorySizer(1.5, {"big": 10, "small": 0.001})
    assert [sizer.estimate("m", path, kind) for kind in ("other", "big", "small")] == [1502, 10010, 2]


@pytest.mark.parametrize("factor", [0, -1, True, "2", float("nan"), float("inf")])
def test_a_wrong_factor_is_refused(factor):
    with pytest.raises(InvalidArgumentError, match=f"multiplier must be a number above 0, not {factor!r}"):
        DirectorySizer(factor)
    with pytest.raises(InvalidArgumentError, match=r"multipliers\.t must be"):
        DirectorySizer(multipliers={"t": factor})
    with pytest.raises(InvalidArgumentError, match="multipliers must be a map"):
        DirectorySizer(multipliers=[1])


def test_a_declared_size_is_taken_from_model_yaml(tmp_path):
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") is None
    (tmp_path / "model.yaml").write_text("loader: python")
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") is None
    (tmp_path / "model.yaml").write_text("size: 2MiB")
    assert DeclaredSizer().estimate("m", str(tmp_path), "t") == 2 * 2**20
    assert DeclaredSizer().estimate("m", "a\0b", "t") is None


BYTES = 1234
LATE_S = 0.2
"""For what hangs for certain; nothing has to be quick enough for it."""

PLUGINS = """
    import pathlib
    import time

    class Hanging:
        looks_for = "nothing"

        def __init__(self, base):
            self.base = pathlib.Path(base)

        def hang(self, model_id):
            (self.base / f"called-{model_id}").touch()
            while True:
                time.sleep(3600)

    class Sizer(Hanging):
        def estimate(self, model_id, path, model_type):
            if model_id.startswith("hung"):
                self.hang(model_id)
            if model_id == "raises":
                raise TimeoutError("its database did not answer")
            return 1234

    class Finder(Hanging):
        def find(self, model_id, path):
            self.hang(model_id)
"""

UNMEASURABLE = """
    import os
    import re

    own = os.open
    def refuse(path, *arguments, **options):
        found = re.fullmatch(r"/proc/(\\d+)/(statm|smaps_rollup)", str(path))
        if found and int(found[1]) != os.getpid():
            raise PermissionError(13, "not for you", path)
        return own(path, *arguments, **options)
    os.open = refuse
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory from which hosts import that are started now."""
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "plugins_that_hang.py").write_text(textwrap.dedent(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


@pytest.fixture
def pool():
    executor = ThreadPoolExecutor(SIZER_THREADS + 1)
    yield executor
    executor.shutdown(wait=False)  # a test that failed may have left what only the end of its host answers


def hung(site, kind):
    return {"default": {"type": f"plugins_that_hang:{kind}", "config": {"base": str(site)}}}


def test_c13_a_sizer_that_hangs_holds_up_no_other_estimate_and_no_remembering(site, model_dir, pool):
    path = model_dir()
    with hostd.Host(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": 3600}) as host:
        client = host.client()
        stuck = pool.submit(client.estimate_model_size, "hung", path)
        eventually((site / "called-hung").exists, "it hangs")
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(BYTES, "estimated")
        size = client.load_model("m", path)._info.size
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(size, "remembered")
        assert not stuck.done()
        with at_most(SOON_S, "the end of a host with a sizer that hangs"):
            host.stop()


def test_c12_c13_an_estimate_that_hangs_ends_in_time_and_says_which_sizer_it_is_and_its_load_goes_on(site, model_dir):
    (site / "sitecustomize.py").write_text(textwrap.dedent(UNMEASURABLE))
    path = model_dir()
    with hostd.Host(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": LATE_S}) as host:
        client = host.client()
        with pytest.raises(hostd.DeadlineExceededError) as caught:
            client.estimate_model_size("hung", path)
        with pytest.raises(hostd.UnavailableError, match="the sizer failed: its database did not answer"):
            client.estimate_model_size("raises", path)
        model = client.load_model("hung", path)
        assert (model.info.state, model.info.size, model.info.size_source) == ("READY", None, "unknown")
        assert model.predict(3) == 3
    sizer = "plugins_that_hang:Sizer"
    for words in (f"'{sizer}'", "0.2 s (memory.estimate_timeout_s)", "'hung'", path, "sizers.default"):
        assert words in caught.value.message
    assert caught.value.details["sizer"] == sizer


def test_c13_sizes_are_remembered_even_if_all_sizers_hang(serve, site, model_dir, pool):
    path = model_dir()
    service = serve(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": LATE_S})
    with hostd.connect(service.endpoint) as client:
        ids = [f"hung{number}" for number in range(SIZER_THREADS + 1)]
        estimates = [pool.submit(client.estimate_model_size, model_id, path) for model_id in ids]
        for estimate in estimates:  # the last one never begins
            assert isinstance(estimate.exception(PATIENCE_S), hostd.DeadlineExceededError)
        size = client.load_model("m", path)._info.size
        client.shutdown()
    assert service.ended() == 0
    with hostd.connect(serve().endpoint) as client:
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(size, "remembered")


def test_c13_a_finder_that_hangs_leaves_the_estimate_as_it_is(site, model_dir):
    finders, sizers = hung(site, "Finder"), hung(site, "Sizer")
    with hostd.Host(finders=finders, sizers=sizers, memory={"estimate_timeout_s": 5}) as host:
        estimate = host.client().estimate_model_size("m", model_dir())
    assert estimate == hostd.SizeEstimate(BYTES, "estimated")
    assert (site / "called-m").exists()


def test_c13_what_is_still_being_hashed_at_the_end_is_remembered(tmp_path, monkeypatch):
    key, hashing, release = SizeKey(*"abcde"), threading.Event(), threading.Event()

    def slow_key(*_):
        hashing.set()
        assert release.wait(PATIENCE_S)
        yield
        return key

    monkeypatch.setattr(module, "finding_key", slow_key)
    monkeypatch.setattr(module, "CLOSE_S", PATIENCE_S)
    config = load_config({"state_dir": tmp_path, "memory": {"estimate_timeout_s": PATIENCE_S, "remember": "host"}})
    plugins = Plugins(config)
    sizes = Sizes(time.monotonic, None, plugins, config, Specifying(plugins, None))  # type: ignore[arg-type]
    spec = ev.LoadingSpec("python", {}, None, {}, None, None)
    remember = sizes.handlers()[fx.RememberSize](fx.RememberSize("/m", spec, ev.Memory(1, BYTES, 1, None, 1), 0.5))
    began = threading.Thread(target=asyncio.run, args=(remember,))
    began.start()
    end = threading.Thread(target=sizes.close)
    try:
        assert hashing.wait(PATIENCE_S)
        eventually(lambda: "closed" not in repr(sizes._store), "it is open")
        end.start()
        never(lambda: "closed" in repr(sizes._store), "it was closed before everything was remembered", for_s=0.1)
    finally:
        release.set()
        end.join(PATIENCE_S)
        began.join(PATIENCE_S)
    with SizeStore(tmp_path / "sizes.sqlite") as store:
        figures = store.recall(key)
    assert figures is not None
    assert figures.rss_bytes == BYTES
