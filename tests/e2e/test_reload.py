"""The configuration of a host that runs, read again: by SIGHUP and by the verb, and what a closing terminal means."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import PATIENCE_S, eventually, is_there

import hostd

pytestmark = pytest.mark.usefixtures("way")


class Served:
    """`hostd serve` in a session of its own, with a configuration file that may change, and a log to look into."""

    def __init__(self, directory, settings, *arguments, **more):
        self.file = directory / "hostd.yaml"
        self.log = directory / "log"
        self.file.write_text(settings)
        places = {
            "HOSTD_RUNTIME_DIR": f"{os.environ['XDG_RUNTIME_DIR']}/reload",
            "HOSTD_STATE_DIR": str(directory / "s"),
        }
        with self.log.open("w") as log:
            self.reaper = subprocess.Popen(
                [sys.executable, "-m", "hostd", "serve", "--json", "--config", str(self.file), *arguments],
                env={**os.environ, **places, **more.pop("environment", {})},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                **more,
            )
        line = self.reaper.stdout.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)["ready"]

    def hang_up(self, *wanted):
        """Send SIGHUP, and return what the log says, when that has all the words that are wanted."""
        begun = len(self.log.read_text())
        self.reaper.send_signal(signal.SIGHUP)
        for words in ("reloaded", *wanted):
            eventually(lambda words=words: words in self.log.read_text()[begun:], f"the log says {words!r}")
        return self.log.read_text()[begun:]


@pytest.fixture
def served(tmp_path):
    started = []

    def start(settings, *arguments, **more):
        started.append(Served(tmp_path, settings, *arguments, **more))
        return started[-1]

    yield start
    for host in started:
        with host.reaper as reaper:
            reaper.terminate()
    shutil.rmtree(f"{os.environ['XDG_RUNTIME_DIR']}/reload", ignore_errors=True)


@pytest.fixture
def model(model_dir):
    return model_dir()


def test_what_can_be_changed_is_changed_and_the_rest_is_named(served, model):
    host = served("memory: {budget: 4GiB}\nworkers: {max_in_flight: 7}\n", "--set", "workers.load_retries=1")
    with hostd.connect(host.ready["endpoint"]) as client:
        client.load_model("m", model)
        host.file.write_text(
            "log_level: debug\nmemory: {budget: 3GiB, idle_ttl_s: 0.2}\nmetrics: {port: 0}\nmodels: {lazy_load: false}\n"
            "workers: {load_retries: 9, max_in_flight: 5}\nfinders: {mine: {type: multi, config: {secret: hidden}}}\n"
        )
        said = host.hang_up(
            "log_level info -> debug",
            f"memory.budget {4 << 30} -> {3 << 30}",
            "memory.idle_ttl_s 0.0 -> 0.2",
            "workers.max_in_flight 7 -> 5",
            "changed after a restart of the host only: finders.mine, metrics.port",
            "the memory budget is 3.0 GiB: set (memory.budget)",
        )
        assert "load_retries" not in said, "an argument wins over the file, as at the start"
        assert "hidden" not in said
        memory = client.memory_info()
        assert (memory.budget_bytes, memory.budget_source) == (3 << 30, "set (memory.budget)")
        eventually(lambda: not client.list_models(), "a model that idles is evicted by the new limit")
        eventually(lambda: "DEBUG" in host.log.read_text(), "the log is at its new level")
        assert client.host_info().metrics_port is None
        host.file.write_text(host.file.read_text().replace("debug", "error"))
        host.hang_up("log_level debug -> error")
        again = client.reload_config()
        assert again == {"file": str(host.file), "changed": {}, "needs_restart": ["finders.mine", "metrics.port"]}


WRONG = {
    "log_level: loud\n": "log_level",
    "workers: {drain_timeout: 3}\n": "did you mean 'drain_timeout_s'",
    "][": "cannot be read",
    None: "there is no configuration file",
    "memory: {budget: 1GiB}\nlimits: {max_in_flight_bytes: 1MiB, max_message_bytes: 1MiB}\n": "max_in_flight_bytes",
}


def test_a_file_that_is_wrong_changes_nothing_and_is_told(served):
    host = served("memory: {budget: 4GiB}\n")
    with hostd.connect(host.ready["endpoint"]) as client:
        for text, words in WRONG.items():
            host.file.unlink() if text is None else host.file.write_text(text)
            assert "changes" not in host.hang_up(words)
            with pytest.raises(hostd.HostError, match=words):
                client.reload_config()
            assert client.memory_info().budget_bytes == 4 << 30
        host.file.write_text("memory: {budget: 5GiB}\nlog_format: json\n")
        assert client.reload_config()["changed"] == {
            "log_format": ["text", "json"],
            "memory.budget": [4 << 30, 5 << 30],
        }
        assert json.loads(host.log.read_text().splitlines()[-1])["level"] == "INFO"


def test_a_host_without_a_file_says_so(host):
    with pytest.raises(hostd.FailedPreconditionError, match="without a configuration file"):
        host.client().reload_config()
    os.kill(host.pid, signal.SIGHUP)
    assert host.client().host_info().pid == host.pid


def test_an_ignored_sighup_stays_ignored(served, model):
    host = served("", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    host.file.write_text("log_level: debug\n")
    os.kill(host.ready["pid"], signal.SIGHUP)
    host.reaper.send_signal(signal.SIGHUP)
    with hostd.connect(host.ready["endpoint"]) as client:
        client.load_model("m", model)  # the loop has turned since
        assert client.reload_config()["changed"] == {"log_level": ["info", "debug"]}, "the signal did nothing"


class Terminal:
    """A terminal with `hostd serve` as the only program in it."""

    def __init__(self, directory):
        places = {"HOSTD_RUNTIME_DIR": f"{os.environ['XDG_RUNTIME_DIR']}/tty", "HOSTD_STATE_DIR": str(directory / "s")}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execve(sys.executable, [sys.executable, "-m", "hostd", "serve"], {**os.environ, **places})
        self.text = ""

    def until(self, words):
        """Read until something is said."""
        deadline_s = time.monotonic() + PATIENCE_S
        while words not in self.text:
            assert select.select([self._fd], [], [], deadline_s - time.monotonic())[0], self.text
            self.text += os.read(self._fd, 65536).decode()

    def close(self):
        """Close it, and return how the program ended."""
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def tidy(self):
        """Remove what every host leaves."""
        shutil.rmtree(f"{os.environ['XDG_RUNTIME_DIR']}/tty", ignore_errors=True)


def test_a_host_in_a_terminal_reloads_while_that_is_there_and_ends_when_it_closes(tmp_path):
    (tmp_path / "hostd.yaml").write_text("log_level: warning\n")
    terminal = Terminal(tmp_path)
    terminal.until("is ready at")
    host_pid = int(terminal.text.partition("(process ")[2].partition(")")[0])
    (tmp_path / "hostd.yaml").write_text("log_level: info\n")
    os.kill(terminal.pid, signal.SIGHUP)
    terminal.until("log_level warning -> info")
    assert terminal.close() == 0
    assert not is_there(host_pid)
    terminal.tidy()
