"""C12 to C14: sizes that are measured, remembered, declared or estimated, and that always say which."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, eventually, never, rss_of_tree, tree_of, uss_of_tree

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from helpers import Service

ModelDir: TypeAlias = "Callable[..., str]"
Serve: TypeAlias = "Callable[..., Service]"

MIB = 1 << 20
FACTOR = 2.0

HOLDER = """
    import subprocess
    import sys

    class Holder:
        def __init__(self, size_bytes, helpers):
            self.data = b"\\1" * size_bytes
            hold = "import time; held = b'x' * (8 << 20); print('up', flush=True); time.sleep(3600)"
            self.helpers = [
                subprocess.Popen([sys.executable, "-S", "-c", hold], stdout=subprocess.PIPE) for _ in range(helpers)
            ]
            for helper in self.helpers:
                helper.stdout.readline()

        def predict(self, x):
            return len(self.data)

        def pids(self):
            return [helper.pid for helper in self.helpers]

    def load(path, size_bytes=0, helpers=0):
        return Holder(size_bytes, helpers)
"""

WAITING = """
    import os
    import time

    def load(path, wait_for):
        while not os.path.exists(wait_for):
            time.sleep(0.005)
        return lambda: 1
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

KNOWS_IDS = """
    from hostd.finders import ModelSpec

    class KnowsIds:
        looks_for = "ids that begin with zoo-"

        def find(self, model_id, path):
            return ModelSpec("knows_ids:load") if model_id.startswith("zoo-") else None

    class Animal:
        def __init__(self):
            self.data = b"\\1" * (32 << 20)

        def predict(self, x):
            return x

    def load(path):
        return Animal()
"""


def bytes_below(path: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def estimate_of(client: hostd.Client, path: str, model_type: str = "standalone-model") -> tuple[int, str]:
    estimate = client.estimate_model_size("any", path, model_type)
    return int(estimate), estimate.source


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory from which hosts and workers that are started now import."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


@pytest.fixture
def unmeasurable(site: Path) -> Iterator[hostd.Client]:
    """A client of a host that the system does not let measure anything."""
    (site / "sitecustomize.py").write_text(textwrap.dedent(UNMEASURABLE))
    with hostd.Host(memory={"sample_period_s": 0.05}) as host:
        yield host.client()


# C12


def test_c12_a_size_is_what_the_system_measures_for_the_whole_tree(shared: hostd.Client, model_dir: ModelDir) -> None:
    model = shared.load_model("holder", model_dir(HOLDER), options={"size_bytes": 64 * MIB, "helpers": 2})
    (worker,) = model.info.workers
    assert {process.pid for process in tree_of(worker.pid)} == {worker.pid, *model.pids()}
    assert worker.processes == 3
    assert worker.rss_bytes == pytest.approx(rss_of_tree(worker.pid), rel=0.02, abs=MIB)
    assert worker.uss_bytes == pytest.approx(uss_of_tree(worker.pid), rel=0.02, abs=MIB)
    assert worker.uss_bytes <= worker.pss_bytes <= worker.rss_bytes <= worker.peak_bytes
    info = model.info
    assert (info.size, info.size_source) == (info.workers[0].rss_bytes, "measured")
    # A sample may be taken between two questions.
    eventually(lambda: model.info.size == model.size == shared.get_model_size("holder"), "all say the same")
    assert worker.uss_bytes > 80 * MIB


def test_c12_it_is_measured_after_loading_and_before_the_load_is_done(model_dir: ModelDir) -> None:
    # No periodic sample within the test: what is known comes from the measurement after the load.
    with hostd.Host(memory={"sample_period_s": 3600}) as host:
        client = host.client()
        path = model_dir(HOLDER)
        for i, size_bytes in enumerate((0, 48 * MIB, 96 * MIB)):
            model = client.load_model(f"m{i}", path, options={"size_bytes": size_bytes})
            info = model._info  # the record that came with the answer
            assert (info.state, info.size_source) == ("READY", "measured")
            assert info.size == pytest.approx(rss_of_tree(info.workers[0].pid), rel=0.02, abs=MIB)
            assert info.size > size_bytes
            story = [event["cause"] for event in client.explain_model(f"m{i}")["story"]]
            assert story[-2:] == ["MEASURED", "LOAD_SUCCEEDED"]


def test_c12_what_cannot_be_measured_is_estimated_and_says_so(unmeasurable: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir(HOLDER, files={"weights.bin": "w" * 50_000})
    model = unmeasurable.load_model("m", path, options={"size_bytes": 16 * MIB})
    assert (model._info.size, model._info.size_source) == (FACTOR * bytes_below(path), "estimated")
    assert unmeasurable.get_model_size("m") == model.size == FACTOR * bytes_below(path)
    assert model.predict(0) == 16 * MIB
    never(lambda: model.info.size_source != "estimated", "a sample that failed changes nothing", for_s=0.3)
    assert estimate_of(unmeasurable, path)[1] == "estimated", "an estimate must not be remembered as a measurement"


def test_c12_what_cannot_be_measured_and_is_declared_says_declared(
    unmeasurable: hostd.Client, model_dir: ModelDir
) -> None:
    model = unmeasurable.load_model("m", model_dir(HOLDER, settings="size: 123MB\n"))
    assert (model.info.size, model.info.size_source) == (123_000_000, "declared")


def test_c12_a_model_without_a_path_has_the_size_that_was_measured(site: Path) -> None:
    (site / "knows_ids.py").write_text(textwrap.dedent(KNOWS_IDS))
    with hostd.Host(finders={"ids": {"type": "knows_ids:KnowsIds"}}) as host:
        client = host.client()
        model = client.load_model("zoo-1", None, finder="ids")
        assert (model.path, model.info.size_source) == (None, "measured")
        assert model.size == pytest.approx(rss_of_tree(model.info.workers[0].pid), rel=0.02, abs=MIB)
        assert model.size > 32 * MIB


def test_c12_without_a_path_and_a_measurement_no_number_is_invented(site: Path) -> None:
    (site / "knows_ids.py").write_text(textwrap.dedent(KNOWS_IDS))
    (site / "sitecustomize.py").write_text(textwrap.dedent(UNMEASURABLE))
    with hostd.Host(finders={"ids": {"type": "knows_ids:KnowsIds"}}) as host:
        client = host.client()
        model = client.load_model("zoo-1", None, finder="ids")
        assert (model.info.state, model.info.size, model.info.size_source) == ("READY", None, "unknown")
        with pytest.raises(hostd.NotFoundError, match="not measured"):
            client.get_model_size("zoo-1")


# C13


def test_c13_an_estimate_loads_nothing_and_multiplies_by_the_types_factor(model_dir: ModelDir) -> None:
    path = model_dir(
        "raise SystemExit('nobody may run this')", files={"weights.bin": "w" * 100_000, ".hidden": "h" * 500}
    )
    config = {"multiplier": 3, "multipliers": {"big": 10}}
    with hostd.Host(sizers={"default": {"type": "directory", "config": config}}) as host:
        client = host.client()
        assert estimate_of(client, path) == (3 * bytes_below(path), "estimated")
        assert estimate_of(client, path, "big") == (10 * bytes_below(path), "estimated")
        assert client.host_info().workers == 0
        assert client.list_models() == []


def test_c13_without_configuration_it_is_the_bytes_times_the_default_factor(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(files={"weights.bin": "w" * 12_345})
    assert estimate_of(shared, path) == (FACTOR * bytes_below(path), "estimated")


def test_c13_a_declared_size_counts_for_more_than_an_estimate_and_less_than_a_memory(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(settings="size: 400MB\n")
    assert estimate_of(shared, path) == (400_000_000, "declared")
    size = shared.load_model("m", path)._info.size
    assert estimate_of(shared, path) == (size, "remembered")


def test_c13_what_was_measured_is_remembered_for_the_content_wherever_it_lies(
    shared: hostd.Client, model_dir: ModelDir, tmp_path: Path
) -> None:
    path = model_dir(HOLDER + "    # of this test alone", files={"weights.bin": "w" * 9_000})
    shutil.copytree(path, tmp_path / "before")
    assert estimate_of(shared, path)[1] == "estimated"
    size = shared.load_model("m", path)._info.size
    assert estimate_of(shared, path) == (size, "remembered")
    assert estimate_of(shared, path, "another-type") == (size, "remembered")
    shutil.copytree(path, tmp_path / "after")
    for copied in ("before", "after"):
        assert estimate_of(shared, str(tmp_path / copied)) == (size, "remembered")
    shared.unload_model("m")
    assert estimate_of(shared, path) == (size, "remembered")


@pytest.mark.parametrize("change", ["changed", "longer", "added", "renamed", "settings"])
def test_c13_changed_content_is_estimated_again(
    shared: hostd.Client, tmp_path: Path, model_dir: ModelDir, change: str
) -> None:
    path = model_dir(files={"weights.bin": f"{change} " * 1000})
    weights = os.path.join(path, "weights.bin")
    shared.load_model("m", path)
    assert estimate_of(shared, path)[1] == "remembered"
    if change == "changed":  # as many bytes as before, and the same time
        before = os.stat(weights)
        with open(weights, "r+") as file:
            file.write("X")
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "longer":
        with open(weights, "a") as file:
            file.write("X")
    elif change == "renamed":
        os.rename(weights, weights + ".old")
    else:
        with open(os.path.join(path, "model.yaml" if change == "settings" else "more.bin"), "w") as file:
            file.write("options: {a: 1}\n")
    assert estimate_of(shared, path) == (FACTOR * bytes_below(path), "estimated")


def test_c13_what_was_measured_with_other_options_is_not_taken_for_it(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(HOLDER + "    # with other options")
    shared.load_model("m", path, options={"size_bytes": 64 * MIB})
    assert estimate_of(shared, path)[1] == "estimated"
    shared.load_model("n", path)
    small, source = estimate_of(shared, path)
    assert source == "remembered"
    assert small < 64 * MIB


def test_c13_a_load_that_fails_is_not_remembered(shared: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir("def load(path):\n    raise ValueError('of test c13')\n")
    with pytest.raises(hostd.ModelError):
        shared.load_model("m", path)
    assert estimate_of(shared, path)[1] == "estimated"


@pytest.mark.parametrize(
    "path",
    [
        "/no/such/place",
        "",
    ],
)
def test_c13_a_missing_path_is_not_found(shared: hostd.Client, path: str) -> None:
    with pytest.raises(hostd.NotFoundError, match="nothing at"):
        shared.estimate_model_size("m", path)


def test_c13_a_size_is_estimated_also_of_what_no_finder_knows(shared: hostd.Client, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    assert estimate_of(shared, str(tmp_path / "weights.bin")) == (1000 * FACTOR, "estimated")


# C14


def test_c14_the_size_of_what_is_loaded_is_bytes(shared: hostd.Client, model_dir: ModelDir) -> None:
    model = shared.load_model("m", model_dir())
    assert type(shared.get_model_size("m")) is int
    eventually(lambda: shared.get_model_size("m") == model.info.size, "the size is that of the record")


@pytest.mark.parametrize("model_id", [None, "", "nobody", "team/nobody"])
def test_c14_of_nothing_it_is_not_found(shared: hostd.Client, model_id: Any) -> None:
    with pytest.raises(hostd.NotFoundError, match=repr(model_id)):
        shared.get_model_size(model_id)


def test_c14_while_it_loads_fails_and_is_gone_it_is_not_found_with_the_reason(
    shared: hostd.Client, model_dir: ModelDir, tmp_path: Path
) -> None:
    path, release = model_dir(WAITING), tmp_path / "release"
    shared.load_model("m", path, wait=False, options={"wait_for": str(release)})
    with pytest.raises(hostd.NotFoundError, match="not loaded: it is LOADING"):
        shared.get_model_size("m")
    release.touch()
    worker = shared.retrieve_model("m").info.workers[0]
    assert shared.get_model_size("m") > 0
    os.kill(worker.pid, 9)
    eventually(lambda: shared.get_model("m").state == "FAILED", "its death is known")
    with pytest.raises(hostd.NotFoundError, match=r"FAILED.*SIGKILL"):
        shared.get_model_size("m")
    shared.unload_model("m", timeout_s=PATIENCE_S)
    with pytest.raises(hostd.NotFoundError, match="there is no model 'm'"):
        shared.get_model_size("m")


def test_c14_after_a_failed_load_the_reason_is_its_error(shared: hostd.Client, model_dir: ModelDir) -> None:
    with pytest.raises(hostd.ModelError):
        shared.load_model("broken", model_dir("def load(path):\n    raise ValueError('no such weights')\n"))
    with pytest.raises(hostd.NotFoundError, match="no such weights"):
        shared.get_model_size("broken")


def test_c12_what_one_models_interpreter_holds_is_charged_to_no_other_model(
    client: hostd.Client, model_dir: Callable[..., str], tmp_path: Path
) -> None:
    """Its worker's word was: 300 MiB that a model's environment had its interpreter hold, and any lie."""
    held_bytes = 300 << 20
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "sitecustomize.py").write_text(f"held = bytearray(b'x') * {held_bytes}\n")
    light = client.load_model("light", model_dir())
    heavy_dir = model_dir()
    with open(f"{heavy_dir}/model.yaml", "w", encoding="utf-8") as file:
        file.write(f"env: {{PYTHONPATH: {tmp_path / 'heavy'}}}\n")
    heavy = client.load_model("heavy", heavy_dir)
    (at_first,) = light.info.workers
    (in_vain,) = heavy.info.workers
    assert 0 < (at_first.baseline_bytes or 0) < held_bytes < (in_vain.baseline_bytes or 0)
    plan = client.plan_load("other", model_dir("load = lambda path: print\n"))
    assert plan.need_source == "estimated"
    assert plan.need_bytes < held_bytes
