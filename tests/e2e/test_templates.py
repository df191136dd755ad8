"""Workers that are forked from templates: as fresh ones, in a fraction of their time and memory, and each its own."""

import os
import signal
import textwrap
import time

import pytest
from helpers import PATIENCE_S, descendants, eventually, is_there
from template_rig import USES, loaded_again, model_pid, pids_of_templates, spare_of, template_of

import hostd
from hostd import UnavailableError


@pytest.fixture
def client(tmp_path):
    """A client of a host of its own, that learns alone."""
    with hostd.Host(memory={"remember": "host"}, workers={"cpu_threads": 1}) as host, host.client() as client:
        yield client


def test_a_load_of_what_was_loaded_before_is_forked_from_a_template_that_has_its_libraries(client, known):
    worker = loaded_again(client, "m", known)
    info = client.templates_info()
    template = next(each for each in info.templates if each.id == worker.template)
    assert (template.libraries, template.workers, template.state) == (("lib",), 1, "READY")
    assert info.forks == 2
    model = client.retrieve_model("m")
    assert model.value() == 1
    assert client.explain_model("m")["origins"][0]["libraries"] == ["lib"]
    assert client.memory_info().templates_bytes == sum(each.held_bytes for each in info.templates) > 0
    pids = [model.ids()[0], *(each.pid for each in info.templates)]
    assert client.unload_model("m").processes == 1
    assert not is_there(pids[0])
    assert all(map(is_there, pids[1:]))


def test_a_forked_worker_is_a_process_as_a_fresh_one_is(client, known, lib, tmp_path):
    fresh_path = lib.model(tmp_path / "fresh", USES)
    (fresh_path / "model.yaml").write_text(f"python: {lib.python}\nisolation: fresh\n")
    worker = loaded_again(client, "m", known)
    client.load_model("fresh", fresh_path)
    fresh_worker = client.get_model("fresh").workers[0]
    assert worker.template is not None
    assert (fresh_worker.template, fresh_worker.why_fresh) == (None, "isolation: fresh")
    forked, fresh = client.retrieve_model("m"), client.retrieve_model("fresh")
    for model in (forked, fresh):
        pid, session, group, parent = model.ids()
        assert pid == session == group
        assert parent == client.host_info().pid
    theirs, ours = fresh.status(), forked.status()
    for name in ("SigQ", "SigPnd", "SigBlk", "SigIgn", "SigCgt", "Umask", "Seccomp", "NoNewPrivs", "Threads"):
        assert name == "SigQ" or ours.get(name) == theirs.get(name), name
    assert ours["Name"] == "hostd:m"
    assert forked.fds() == fresh.fds()
    assert forked.where() == fresh.where()
    own = {"HOSTD_MODEL_ID"}
    environments = [{k: v for k, v in model.environment().items() if k not in own} for model in (forked, fresh)]
    assert environments[0] == environments[1]


def test_children_of_one_template_draw_numbers_of_their_own(client, known):
    loaded_again(client, "m", known)
    client.load_model("n", known)
    assert {client.get_model(name).workers[0].template for name in "mn"} == {client.get_model("m").workers[0].template}
    one, other = client.retrieve_model("m").draws(), client.retrieve_model("n").draws()
    assert all(a != b for a, b in zip(one, other, strict=True)), (one, other)


def test_a_template_that_is_killed_or_stopped_costs_no_load_and_no_model(client, known):
    worker = loaded_again(client, "m", known)
    model, pid = client.retrieve_model("m"), model_pid(client, "m")
    template = template_of(client, "lib")
    os.kill(template.pid, signal.SIGKILL)
    eventually(lambda: template.pid not in pids_of_templates(client), "the host knows that the template has ended")
    assert not is_there(template.pid)
    assert (model.value(), model.ids()[0]) == (1, pid)
    client.load_model("n", known)
    assert client.retrieve_model("n").value() == 1
    template = template_of(client, "lib")
    assert template.id != worker.template
    spare_of(client, template)
    os.kill(template.pid, signal.SIGSTOP)
    client.load_model("o", known)
    assert client.get_model("o").workers[0].template == template.id, "the spare was there"
    client.load_model("p", known)
    assert "did not fork" in client.get_model("p").workers[0].why_fresh
    assert [client.retrieve_model(name).value() for name in "op"] == [1, 1]
    eventually(lambda: not is_there(template.pid), "the template ends")


def test_what_installs_a_library_anew_replaces_its_template(client, known, lib):
    worker = loaded_again(client, "m", known)
    (lib.site / "lib" / "__init__.py").touch()
    client.load_model("n", known)
    assert "installed anew" in client.get_model("n").workers[0].why_fresh
    client.load_model("o", known)
    assert client.get_model("o").workers[0].template not in (None, worker.template)


def test_a_host_knows_what_earlier_ones_have_learned_and_warms_it(lib, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = lib.model(tmp_path / "m", USES)
    with hostd.Host("app") as host, host.client() as client:
        client.load_model("m", path)
        loaded_again(client, "m", path)
    with hostd.Host("app") as host, host.client() as client:
        template = template_of(client, "lib")
        client.load_model("m", path)
        assert client.get_model("m").workers[0].template == template.id


def test_a_model_with_an_own_module_in_place_of_an_installed_one_gets_its_own(client, known, lib, tmp_path):
    path = lib.model(tmp_path / "own", "import lib\ndef load(path):\n    return lambda: lib.OWN\n")
    (path / "lib.py").write_text("OWN = 'its own'\n")
    for number in range(3):  # whatever has been learned of it
        client.load_model("own", path)
        assert client.retrieve_model("own")() == "its own"
        if number < 2:
            client.unload_model("own")


def test_a_content_that_fails_in_a_child_alone_is_loaded_afresh_from_then_on(client, known, lib, tmp_path):
    source = """
        import lib, multiprocessing, os, sys
        is_forked = "hostd_workers.template.main" in sys.modules
        if is_forked:
            os._exit(7) if os.path.exists(__file__ + ".dies") else None
            raise RuntimeError("Cannot re-initialize in a forked process")
        def load(path):
            return os.getpid
    """
    for name, dies in (("raises", False), ("dies", True)):
        path = lib.model(tmp_path / name, source)
        if dies:
            (path / "model.py.dies").touch()
        client.load_model(name, path)
        worker = client.get_model(name).workers[0]
        assert worker.template is None
        assert ("exit code 7" if dies else "Cannot re-initialize") in worker.why_fresh
        if dies:  # once may have been an accident
            assert str(path) not in client.templates_info().fresh
            worker = loaded_again(client, name, path)
            assert "exit code 7" in worker.why_fresh
        again = loaded_again(client, name, path)
        assert (again.template, again.why_fresh) == (None, worker.why_fresh)
        assert client.templates_info().fresh[str(path)] == worker.why_fresh
        assert [event["cause"] for event in client.explain_model(name)["story"]].count("FRESH") == 1 + dies


def test_a_wrong_model_is_refused_in_the_same_words_whatever_its_worker_came_from(client, known, lib, tmp_path):
    path = lib.model(tmp_path / "wrong", "import lib\nraise ValueError('no such weights')\n")
    said = []
    for isolation in ("shared", "fresh"):
        (path / "model.yaml").write_text(f"python: {lib.python}\nisolation: {isolation}\n")
        with pytest.raises(hostd.ModelError, match="no such weights") as raised:
            client.load_model("wrong", path)
        said.append(raised.value.message)
    assert said[0] == said[1]
    assert str(path) not in client.templates_info().fresh


CULPRITS = {
    "a_thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "thread",
    ),
    "a_socket": ("import socket\nkept = socket.socket()", "a socket"),
    "a_child": ("import subprocess\nkept = subprocess.Popen(['sleep', '1000'])", "a process"),
    "a_signal": ("import signal\nsignal.signal(signal.SIGUSR1, print)", "a signal"),
    "a_place": ("import os\nos.chdir('/usr')", "current directory"),
    "cuda": (
        "import sys, types\nfake = types.ModuleType('torch.cuda')\nfake.is_initialized = lambda: True\nsys.modules['torch.cuda'] = fake",
        "CUDA",
    ),
    "an_end": ("import os\nif 'HOSTD_MODEL_ID' not in os.environ: os._exit(1)", "ended"),
}


@pytest.mark.parametrize("name", CULPRITS)
def test_a_library_that_is_not_safe_to_fork_is_left_out_and_told(client, interpreter, tmp_path, name):
    culprit, told = CULPRITS[name]
    library, innocent = f"lib_{name}", f"good_{name}"
    interpreter.write(library, culprit=culprit)
    interpreter.write(innocent)
    source = f"import {library}, {innocent}\ndef load(path):\n    return lambda: {innocent}.m1.VALUE"
    path = interpreter.model(tmp_path / name, source)
    client.load_model(name, path)
    for _ in range(3):
        loaded_again(client, name, path)
        assert client.retrieve_model(name)() == 1
    reason = eventually(lambda: client.templates_info().left_out.get(library), "it is left out")
    assert told in reason
    assert innocent not in client.templates_info().left_out
    template = template_of(client, innocent)
    assert library not in template.libraries
    assert loaded_again(client, name, path).template == template.id
    assert client.retrieve_model(name)() == 1


def test_a_library_that_hangs_in_a_template_is_left_out_and_holds_no_load_up_for_long(client, interpreter, tmp_path):
    interpreter.write("hangs", culprit="import os, time\nif 'HOSTD_MODEL_ID' not in os.environ: time.sleep(1e6)")
    path = interpreter.model(tmp_path / "m", "import hangs\ndef load(path):\n    return lambda: hangs.m1.VALUE")
    client.load_model("m", path)
    began_s = time.monotonic()
    worker = loaded_again(client, "m", path)
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert "was not ready" in worker.why_fresh, (worker, client.templates_info())
    assert client.retrieve_model("m")() == 1
    reason = eventually(lambda: client.templates_info().left_out.get("hangs"), "it is left out")
    assert "took more than" in reason


def test_threads_are_those_that_the_model_was_given(client, tmp_path):
    """With real libraries, in the interpreter of these tests."""
    pytest.importorskip("threadpoolctl")
    source = """
        import os, numpy, threadpoolctl, scipy.linalg, sklearn.linear_model
        class Model:
            def pools(self):
                return {each["filepath"]: each["num_threads"] for each in threadpoolctl.threadpool_info()}
            def used(self):
                a = numpy.ones((700, 700))
                for _ in range(5):
                    a @ a
                return len(os.listdir("/proc/self/task"))
        def load(path):
            return Model()
    """
    paths = {}
    for threads in (1, 2, 3):
        paths[threads] = tmp_path / f"m{threads}"
        paths[threads].mkdir()
        (paths[threads] / "model.py").write_text(textwrap.dedent(source))
        (paths[threads] / "model.yaml").write_text(f"cpu_threads: {threads}\n")
    for name, isolation in (("first", "shared"), ("forked", "shared"), ("fresh", "fresh")):
        for threads, path in paths.items():
            (path / "model.yaml").write_text(f"cpu_threads: {threads}\nisolation: {isolation}\n")
            client.load_model(f"{name}{threads}", path)
    for threads in paths:
        forked, fresh = client.retrieve_model(f"forked{threads}"), client.retrieve_model(f"fresh{threads}")
        assert client.get_model(f"forked{threads}").workers[0].template is not None
        assert threads in forked.pools().values()
        assert forked.pools() == fresh.pools()
        assert forked.used() == fresh.used()


def test_with_templates_off_nothing_is_kept(tmp_path, lib):
    path = lib.model(tmp_path / "m", USES)
    with hostd.Host(workers={"templates": "off"}) as host, host.client() as client:
        client.load_model("m", path)
        assert loaded_again(client, "m", path).template is None
        assert client.templates_info() == hostd.TemplatesInfo(starts=2)


def test_a_list_of_modules_is_what_is_imported(tmp_path, lib):
    path = lib.model(tmp_path / "m", USES)
    workers = {"templates": ["lib", "decimal"], "python": str(lib.python)}
    with hostd.Host(workers=workers) as host, host.client() as client:
        client.load_model("m", path)
        (template,) = client.templates_info().templates
        assert (template.libraries, template.modules, template.workers) == (("lib",), 2, 1)


def test_a_dead_worker_of_a_template_is_told_as_any(client, known):
    loaded_again(client, "m", known)
    with pytest.raises(UnavailableError, match="exit code 3"):
        client.retrieve_model("m").die()


def test_all_end_with_their_host(client, known):
    loaded_again(client, "m", known)
    supervisor = client.host_info().pid
    pids = [supervisor, *descendants(supervisor)]
    assert len(pids) >= 4
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not any(map(is_there, pids)), "all end")
