"""The worker that a template forks ahead of its order, and the template that a host in a program starts ahead of any."""

import os
import signal
import textwrap

import pytest
from helpers import descendants, eventually, is_there, state_of
from template_rig import USES, loaded_again, model_pid, pids_of_templates, ready_one, spare_of, template_of

import hostd


@pytest.fixture
def client(tmp_path):
    """A client of a host of its own, that learns alone."""
    with hostd.Host(memory={"remember": "host"}, workers={"cpu_threads": 1}) as host, host.client() as client:
        yield client


def test_a_spare_that_is_killed_is_replaced_and_leaves_nothing(client, known):
    loaded_again(client, "m", known)
    template = template_of(client, "lib")
    for name in ("n", "o"):
        spares = [spare_of(client, template)]
        for _ in range(3):
            os.kill(spares[-1], signal.SIGKILL)
            spares.append(spare_of(client, template, spares))
        client.load_model(name, known)
        assert (model_pid(client, name), client.retrieve_model(name).value()) == (spares[-1], 1)
        eventually(lambda lost=spares[:-1]: not any(map(is_there, lost)), "their numbers are free")


def test_a_template_of_which_the_spares_end_at_once_ends_itself(client, interpreter, tmp_path):
    interpreter.write(
        "frail",
        """
        import os
        forks, template = [], os.getpid()

        def end_spares():
            if len(forks) > 3 and os.getppid() != template:
                os._exit(1)

        os.register_at_fork(before=lambda: forks.append(1), after_in_child=end_spares)
        """,
    )
    path = interpreter.model(tmp_path / "m", USES.replace("lib", "frail"))
    client.load_model("m", path)
    loaded_again(client, "m", path)
    template = template_of(client, "frail")
    supervisor = client.host_info().pid
    client.load_model("n", path)
    eventually(lambda: template.pid not in pids_of_templates(client), "the template ends")
    eventually(lambda: "Z" not in map(state_of, descendants(supervisor)), "what has ended is reaped")
    client.load_model("o", path)
    assert [client.retrieve_model(name).value() for name in "mno"] == [1, 1, 1]


def test_a_spare_that_is_stopped_costs_no_load(client, known):
    loaded_again(client, "m", known)
    template = template_of(client, "lib")
    spare = spare_of(client, template)
    os.kill(spare, signal.SIGSTOP)
    client.load_model("n", known)
    assert "did not fork" in client.get_model("n").workers[0].why_fresh
    assert client.retrieve_model("n").value() == 1
    eventually(lambda: not is_there(spare) and not is_there(template.pid), "both end")


def test_a_template_that_ends_takes_its_spare_along(client, known):
    loaded_again(client, "m", known)
    template = template_of(client, "lib")
    spare = spare_of(client, template)
    os.kill(template.pid, signal.SIGKILL)
    eventually(lambda: not is_there(spare) and not is_there(template.pid), "both end")
    assert client.retrieve_model("m").value() == 1


def test_an_embedded_host_has_a_template_before_it_is_asked_for_anything(client, tmp_path):
    template = eventually(lambda: ready_one(client), "the bare template is ready")
    assert (template.libraries, template.forks, template.workers) == ((), 0, 0)
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.py").write_text(textwrap.dedent(USES).replace("lib, ", ""))
    client.load_model("forked", path)
    (path / "model.yaml").write_text("isolation: fresh\n")
    client.load_model("fresh", path)
    workers = [client.get_model(name).workers[0] for name in ("forked", "fresh")]
    assert [worker.template for worker in workers] == [template.id, None]
    fds, environments = [], []
    for name in ("forked", "fresh"):
        model = client.retrieve_model(name)
        fds.append(model.fds())
        environments.append({k: v for k, v in model.environment().items() if k != "HOSTD_MODEL_ID"})
    assert fds[0] == fds[1], "nothing of the supervisor's is inherited"
    assert environments[0] == environments[1]


@pytest.mark.parametrize("workers", [{"templates": "off"}, {"templates": ["json"]}, {"python": "/bin/false"}])
def test_an_embedded_host_starts_whatever_becomes_of_its_first_template(workers):
    with hostd.Host(memory={"remember": "host"}, workers=workers) as host, host.client() as client:
        eventually(lambda: not pids_of_templates(client), "there is none")
        assert client.list_models() == []
