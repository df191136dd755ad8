"""Loading and unloading by caikit's manager of models: errors, sizes, and the memory that comes back."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from caikit_rig import LIBRARY, CaikitRuntimeException, caikit, grpc, held_bytes, sample, saved
from helpers import eventually

pytestmark = [pytest.mark.caikit, pytest.mark.filterwarnings("ignore")]

QUESTION = sample.Question("Ada")
MIB = 1 << 20


def test_an_unload_ends_the_process_before_it_returns(manager, path):
    manager.load_model("once", path, "any")
    pid = manager.retrieve_model("once").run(QUESTION).pid
    assert psutil.pid_exists(pid)
    manager.unload_model("once")
    assert not psutil.pid_exists(pid)


def test_a_model_in_use_is_unloaded_when_its_last_stream_is_over(manager, path):
    stream = iter(manager.load_model("used", path, "any").model().run_stream_out(QUESTION))
    first = next(stream)
    manager.unload_model("used")
    assert [reply.text for reply in (first, *stream)] == [f"Ada {number}" for number in range(5)]
    hosted = stream._call.remote.hosted
    del stream
    assert not [info for info in hosted.wait(hosted.client.list_models()) if info.id.startswith("used")]


def test_a_collection_that_interrupts_logging_unloads_a_model_and_hangs_nobody(manager, path, caplog):
    caplog.set_level("INFO")
    model = manager.load_model("circular", path, "any").model()
    model.itself, pid = model, model.run(QUESTION).pid
    del model
    with caplog.handler.lock:  # what the thread held when the collection began
        manager.unload_model("circular")
        eventually(lambda: not psutil.pid_exists(pid), "its process has ended")


def test_a_model_may_be_loaded_again_under_its_id(manager, path):
    first = manager.load_model("again", path, "any").model()
    manager.unload_model("again")
    second = manager.load_model("again", path, "any").model()
    assert first.run(QUESTION).pid != second.run(QUESTION).pid


@pytest.mark.parametrize(
    ("fails", "code"),
    [("own", grpc.StatusCode.NOT_FOUND), ("file", grpc.StatusCode.NOT_FOUND), ("runtime", grpc.StatusCode.INTERNAL)],
)
def test_a_load_that_fails_has_the_code_that_caikit_gives_it(manager, tmp_path, fails, code):
    where = saved(sample.Answerer(), tmp_path / "failing", fails=fails)
    with pytest.raises(CaikitRuntimeException) as raised:
        manager.load_model("failing", where, "any")
    assert raised.value.status_code is code


def test_a_model_that_is_undeployed_while_it_loads_is_gone_without_an_error(manager, model, tmp_path):
    where = saved(sample.Answerer(), tmp_path / "going", reads_until_gone=True)
    going = manager.load_model("going", where, "any", wait=False)
    hosted = model._hostd.hosted
    eventually(lambda: "LOADING" in states(hosted, "going"), "the load has begun")
    shutil.rmtree(where)  # as caikit's `undeploy_model` does
    manager.unload_model("going")
    assert "going" not in manager.loaded_models
    with pytest.raises(CaikitRuntimeException) as raised:
        going.model().run(QUESTION)
    assert raised.value.status_code is grpc.StatusCode.NOT_FOUND


def states(hosted, name):
    """Return the states of the models with an id of caikit's."""
    return [info.state for info in hosted.wait(hosted.client.list_models()) if info.id.startswith(f"{name}~")]


def test_a_module_that_only_this_process_has_is_loaded_here_and_a_warning_says_so(manager, tmp_path, caplog):
    kind = "0a5a0b1e-0000-4000-8000-000000000003"

    @caikit.core.module(kind, "Local", "0.1.0", sample.AnswerTask)
    class Local(sample.Answerer):
        pass

    where = saved(Local("Here"), tmp_path / "local")
    model = manager.load_model("local", where, "any").model()
    assert type(model) is Local
    assert model.run(QUESTION).pid == os.getpid()
    assert "local is loaded in the serving process, because no other process can import" in caplog.text


def test_nothing_at_a_path_is_not_found(manager):
    with pytest.raises(CaikitRuntimeException) as raised:
        manager.load_model("nowhere", "/nowhere/at/all", "any")
    assert raised.value.status_code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(CaikitRuntimeException) as raised:
        manager.estimate_model_size("nowhere", "/nowhere/at/all", "any")
    assert raised.value.status_code is grpc.StatusCode.NOT_FOUND


def is_settled(info):
    """Say whether there are templates, and each has imported its libraries: the host keeps them for later loads."""
    return info.templates and all(template.state == "READY" for template in info.templates)


def test_memory_comes_back_and_sizes_are_measured(manager, path, tmp_path, tell):
    where = saved(sample.Heavy.__new__(sample.Heavy), tmp_path / "heavy")
    hosted = manager.load_model("small", path, "any").model()._hostd.hosted
    manager.load_model("warm", path, "any").model().run(QUESTION)
    manager.unload_model("warm")
    eventually(lambda: is_settled(hosted.wait(hosted.client.templates_info())), "the host's templates are there")
    before = held_bytes()
    manager.load_model("heavy", where, "any").model().run(QUESTION)
    during = held_bytes()
    manager.unload_model("heavy")
    after = held_bytes()
    tell(f"over workers: {before / MIB:.0f} MiB, with the model {during / MIB:.0f}, after {after / MIB:.0f}")
    assert during - before > 450 * MIB
    assert after <= before * 1.05
    assert 450 * MIB < manager.estimate_model_size("heavy", where, "any") < 700 * MIB
    assert 450 * MIB < manager.load_model("heavy", where, "any").size() < 700 * MIB
    manager.unload_model("heavy")


ALONE = """
    import sys
    sys.path[:0] = [{library!r}, {rig!r}]
    from caikit_rig import configure, held_bytes, sample
    manager = configure(loaders={{"default": {{"type": "CORE"}}}}, sizers={{"default": {{"type": "DIRECTORY"}}}})
    manager.load_model("small", {small!r}, "any").model().run(sample.Question("Ada"))
    seen = [held_bytes()]
    manager.load_model("heavy", {heavy!r}, "any").model().run(sample.Question("Ada"))
    seen.append(held_bytes())
    manager.unload_model("heavy")
    print(*seen, held_bytes())
"""


def test_caikit_alone_keeps_what_it_took(path, tmp_path, tell):
    where = saved(sample.Heavy.__new__(sample.Heavy), tmp_path / "heavy")
    program = ALONE.format(library=LIBRARY, rig=str(Path(__file__).parent), small=path, heavy=where)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    before, during, after = map(int, done.stdout.split()[-3:])
    tell(f"caikit alone: {before / MIB:.0f} MiB, with the model {during / MIB:.0f}, after {after / MIB:.0f}")
    assert after > before * 1.05
