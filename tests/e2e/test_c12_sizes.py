"""C12 to C14: sizes that are measured, remembered, declared or estimated, and that always say which."""

import os
import shutil
import time

import pytest
from helpers import PATIENCE_S, eventually, is_there, never, rss_of_tree, tree_of, uss_of_tree
from models_rig import GATED

import hostd

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

        def grow(self, size_bytes):
            self.data += b"\\2" * size_bytes
            return len(self.data)

        def pids(self):
            return [helper.pid for helper in self.helpers]

    def load(path, size_bytes=0, helpers=0):
        return Holder(size_bytes, helpers)
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

    def load(path):
        held = b"\\1" * (32 << 20)
        return lambda: len(held)
"""


@pytest.fixture(scope="module")
def shared_host():
    """Without periodic samples within a test: what is known comes from the measurement after the load."""
    with hostd.Host(memory={"sample_period_s": 3600, "remember": "host"}) as host:
        yield host


def bytes_below(path):
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def estimate_of(client, path, model_type="standalone-model"):
    estimate = client.estimate_model_size("any", path, model_type)
    return int(estimate), estimate.source


# C12


def test_c12_c20_a_size_is_what_the_system_measures_for_the_whole_tree_and_gets_back(shared, model_dir):
    path = model_dir(HOLDER, settings="isolation: fresh\n")  # what a forked one has of its template is not its own
    model = shared.load_model("holder", path, options={"size_bytes": 64 * MIB, "helpers": 2})
    info = model.info
    (worker,) = info.workers
    assert {process.pid for process in tree_of(worker.pid)} == {worker.pid, *model.pids()}
    assert worker.processes == 3
    assert worker.rss_bytes == pytest.approx(rss_of_tree(worker.pid), rel=0.02, abs=MIB)
    assert worker.uss_bytes == pytest.approx(uss_of_tree(worker.pid), rel=0.02, abs=MIB)
    assert worker.uss_bytes <= worker.pss_bytes <= worker.rss_bytes <= worker.peak_bytes
    assert (info.state, info.size, info.size_source) == ("READY", worker.rss_bytes, "measured")
    assert model.size == pytest.approx(info.size, abs=MIB), "it is sampled again and again"
    assert shared.get_model_size("holder") == pytest.approx(info.size, abs=MIB)
    assert worker.uss_bytes > 80 * MIB
    story = [event["cause"] for event in shared.explain_model("holder")["story"]]
    assert story[-2:] == ["MEASURED", "LOAD_SUCCEEDED"]
    pids, private_bytes, began_s = [worker.pid, *model.pids()], uss_of_tree(worker.pid), time.monotonic()
    report = shared.unload_model("holder")
    took_s = time.monotonic() - began_s
    assert not [pid for pid in pids if is_there(pid)], "unloaded was answered before every process was gone"
    assert report.freed_bytes == pytest.approx(private_bytes, rel=0.02, abs=MIB)
    assert report.size_bytes == pytest.approx(info.size, abs=MIB)
    assert report.processes == 3
    assert 0 < report.duration_s <= took_s


def test_c12_a_size_follows_a_model_that_grows_and_needs_no_path(model_dir, install):
    install(knows_ids=KNOWS_IDS)
    finders = {"ids": {"type": "knows_ids:KnowsIds"}}
    with hostd.Host(memory={"sample_period_s": 0.05}, finders=finders, workers={"templates": "off"}) as host:
        model = host.client().load_model("zoo-1", None, finder="ids")
        assert (model.path, model.info.size_source) == (None, "measured")
        assert model.size == pytest.approx(rss_of_tree(model.info.workers[0].pid), rel=0.02, abs=MIB)
        assert model.size > 32 * MIB
        model = host.client().load_model("holder", model_dir(HOLDER))
        before_bytes = model.size
        assert model.grow(48 * MIB) == 48 * MIB
        tree_bytes = rss_of_tree(model.info.workers[0].pid)
        assert tree_bytes > before_bytes + 40 * MIB
        # Not the first sample that is larger: that may be of the middle of the growth.
        eventually(lambda: model.size == pytest.approx(tree_bytes, rel=0.02, abs=MIB), "all of the growth is seen")


def test_c12_what_cannot_be_measured_is_estimated_or_declared_or_unknown_and_says_so(install, model_dir):
    install(sitecustomize=UNMEASURABLE, knows_ids=KNOWS_IDS)
    path = model_dir(HOLDER, files={"weights.bin": "w" * 50_000})
    finders = {"ids": {"type": "knows_ids:KnowsIds"}}
    with hostd.Host(memory={"sample_period_s": 0.05}, finders=finders, workers={"templates": "off"}) as host:
        client = host.client()
        model = client.load_model("m", path)
        assert client.get_model_size("m") == model.size == FACTOR * bytes_below(path)
        never(lambda: model.info.size_source != "estimated", "a sample that failed changes nothing", for_s=0.3)
        assert estimate_of(client, path)[1] == "estimated", "an estimate must not be remembered as a measurement"
        info = client.load_model("n", model_dir(HOLDER, settings="size: 123MB\n")).info
        assert (info.size, info.size_source) == (123_000_000, "declared")
        info = client.load_model("zoo-1", None, finder="ids").info
        assert (info.state, info.size, info.size_source) == ("READY", None, "unknown")
        with pytest.raises(hostd.NotFoundError, match="not measured"):
            client.get_model_size("zoo-1")


def test_c12_what_one_models_interpreter_holds_is_charged_to_no_other_model(client, model_dir, tmp_path):
    """What a worker said of its interpreter was believed for every model: 300 MiB here, or any lie."""
    held_bytes = 300 << 20
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "sitecustomize.py").write_text(f"held = bytearray(b'x') * {held_bytes}\n")
    fresh = "isolation: fresh\n"
    light = client.load_model("light", model_dir(settings=fresh))
    heavy = client.load_model("heavy", model_dir(settings=f"{fresh}env: {{PYTHONPATH: {tmp_path / 'heavy'}}}\n"))
    (at_first,), (in_vain,) = light.info.workers, heavy.info.workers
    assert 0 < (at_first.baseline_bytes or 0) < held_bytes < (in_vain.baseline_bytes or 0)
    plan = client.plan_load("other", model_dir("load = lambda path: print\n"))
    assert plan.need_source == "estimated"
    assert plan.need_bytes < held_bytes


# C13


def test_c13_an_estimate_loads_nothing_and_multiplies_by_the_types_factor(shared, model_dir, tmp_path):
    files = {"weights.bin": "w" * 100_000, ".hidden": "h" * 500}
    path = model_dir("raise SystemExit('nobody may run this')", files=files)
    assert estimate_of(shared, path) == (FACTOR * bytes_below(path), "estimated")
    (tmp_path / "weights.bin").write_bytes(bytes(1000))  # which no finder knows
    assert estimate_of(shared, str(tmp_path / "weights.bin")) == (1000 * FACTOR, "estimated")
    for missing in ("/no/such/place", ""):
        with pytest.raises(hostd.NotFoundError, match="nothing at"):
            shared.estimate_model_size("m", missing)
    config = {"multiplier": 3, "multipliers": {"big": 10}}
    with hostd.Host(sizers={"default": {"type": "directory", "config": config}}) as host:
        client = host.client()
        assert estimate_of(client, path) == (3 * bytes_below(path), "estimated")
        assert estimate_of(client, path, "big") == (10 * bytes_below(path), "estimated")
        assert (client.host_info().workers, client.list_models()) == (0, [])


def test_c13_what_was_measured_is_remembered_for_the_content_wherever_it_lies(shared, model_dir, tmp_path):
    path = model_dir(HOLDER, settings="size: 400MB\n", files={"weights.bin": "w" * 9_000})
    shutil.copytree(path, tmp_path / "before")
    assert estimate_of(shared, path) == (400_000_000, "declared")
    shared.load_model("other", path, options={"size_bytes": 64 * MIB})
    assert estimate_of(shared, path)[1] == "declared", "what was measured with other options is not taken for it"
    size = shared.load_model("m", path).size
    assert size < 64 * MIB
    remembered = (size, "remembered")
    assert estimate_of(shared, path) == estimate_of(shared, path, "another-type") == remembered
    shutil.copytree(path, tmp_path / "after")
    for copied in ("before", "after"):
        assert estimate_of(shared, str(tmp_path / copied)) == remembered
    shared.unload_model("m")
    assert estimate_of(shared, path) == remembered


def rewrite(weights):
    """Write as many bytes as before, and keep the times."""
    before = weights.stat()
    weights.write_bytes(b"X" + weights.read_bytes()[1:])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "changed": rewrite,
    "longer": lambda weights: weights.write_bytes(weights.read_bytes() + b"X"),
    "renamed": lambda weights: weights.rename(weights.with_suffix(".old")),
    "added": lambda weights: weights.with_name("more.bin").write_text("more"),
    "settings": lambda weights: weights.with_name("model.yaml").write_text("options: {a: 1}\n"),
}


def test_c13_changed_content_and_a_load_that_fails_are_estimated(shared, model_dir, tmp_path):
    path = model_dir(files={"weights.bin": "w" * 5000})
    shared.load_model("m", path)
    for name, change in CHANGES.items():
        place = shutil.copytree(path, tmp_path / name)
        assert estimate_of(shared, str(place))[1] == "remembered"
        change(place / "weights.bin")
        assert estimate_of(shared, str(place)) == (FACTOR * bytes_below(str(place)), "estimated"), name
    path = model_dir("def load(path):\n    raise ValueError('of test c13')\n")
    with pytest.raises(hostd.ModelError):
        shared.load_model("bad", path)
    assert estimate_of(shared, path)[1] == "estimated"


# C14


def test_c14_it_is_not_found_with_the_reason_before_a_load_while_it_lasts_and_after_it(shared, rig, model_dir):
    for model_id in (None, "", "nobody", "team/nobody"):
        with pytest.raises(hostd.NotFoundError, match=repr(model_id)):
            shared.get_model_size(model_id)
    shared.load_model("m", rig.make(GATED), wait=False)
    with pytest.raises(hostd.NotFoundError, match="not loaded: it is LOADING"):
        shared.get_model_size("m")
    eventually(lambda: rig.loads("../workshop/0"), "the load has begun")
    rig.let_go("../workshop/0")
    model = shared.retrieve_model("m")
    assert type(shared.get_model_size("m")) is int
    assert shared.get_model_size("m") == model.info.size > 0
    os.kill(model.info.workers[0].pid, 9)
    eventually(lambda: shared.get_model("m").state == "FAILED", "its death is known")
    with pytest.raises(hostd.NotFoundError, match=r"FAILED.*SIGKILL"):
        shared.get_model_size("m")
    shared.unload_model("m", timeout_s=PATIENCE_S)
    with pytest.raises(hostd.NotFoundError, match="there is no model 'm'"):
        shared.get_model_size("m")
    with pytest.raises(hostd.ModelError):
        shared.load_model("broken", model_dir("def load(path):\n    raise ValueError('no such weights')\n"))
    with pytest.raises(hostd.NotFoundError, match="no such weights"):
        shared.get_model_size("broken")
