"""What processes do without: modules that take long to import, and for which most starts have no use."""

import os
import subprocess
import sys
from textwrap import dedent

import pytest

import hostd

SETTINGS = {
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "yaml",
    "hostd.config.settings",
    "hostd.config.model_yaml",
}
SHOWING = {"click", "rich"}
RARE = {"psutil", "prometheus_client", "watchfiles", "zmq.asyncio", "email", "http.client", "importlib.metadata"}

PROBE = """
    import sys

    class Sizer:
        def __init__(self, into):
            self._into = into

        def estimate(self, model_id, path, model_type):
            with open(self._into, "w") as file:
                file.write("\\n".join(sys.modules))
            return 1 << 24
"""


def imported(code, **variables):
    """Return what is imported when a program has run, which may print."""
    command = [sys.executable, "-c", f"{dedent(code)}\nimport sys\nprint('\\n'.join(['', '', *sys.modules]))"]
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    return {*done.stdout.rpartition("\n\n")[2].split()}


@pytest.fixture(scope="module")
def at_start():
    """What an interpreter imports by itself: here perhaps what measures coverage."""
    return imported("")


def test_the_package_alone_imports_no_client_and_no_host(at_start):
    found = imported("import hostd")
    others = {"zmq", "asyncio", "socket", "hostd.embed", "hostd.records", "dataclasses", "inspect"}
    assert not (found - at_start) & (SETTINGS | SHOWING | RARE | others)


@pytest.mark.parametrize("first", ["hostd.embed", "hostd.shell.processes.early"])
def test_what_starts_another_process_first_imports_little_before(at_start, first):
    """An embedding program starts the reaper and a supervisor a template; the rest is imported meanwhile."""
    others = {
        "pathlib",
        "logging",
        "tempfile",
        "dataclasses",
        "inspect",
        "hostd.records",
        "hostd.config",
        "hostd.paths",
    }
    assert not (imported(f"import {first}") - at_start) & others


def test_a_host_in_a_program_needs_neither_a_loop_nor_what_checks_settings(at_start):
    found = imported("import hostd\nwith hostd.Host(memory={'budget': '1GiB'}) as host: host.client().host_info()")
    assert "zmq" in found
    assert not (found - at_start) & (
        SETTINGS | SHOWING | RARE | {"asyncio", "ssl", "multiprocessing", "sqlite3", "tempfile"}
    )


def test_a_host_that_has_loaded_a_model_has_not_read_a_setting_anew(install, model_dir, tmp_path, at_start):
    install(probe=PROBE)
    sizers = {"default": {"type": "probe:Sizer", "config": {"into": str(tmp_path / "seen")}}}
    with hostd.Host(memory={"remember": "none"}, sizers=sizers) as host, host.client() as client:
        assert client.load_model("first", model_dir()).predict(1) == 1
    found = {*(tmp_path / "seen").read_text("utf-8").split()}
    assert "hostd.core.machine" in found
    assert not (found - at_start) & (SETTINGS | SHOWING | RARE | {"zmq", "http", "multiprocessing", "tempfile"})


@pytest.mark.parametrize("form", ["--json", "--all"])
def test_a_command_imports_what_it_shows_with_and_nothing_that_serves(host, form, at_start):
    code = f"""
        import sys
        from hostd.cli import main
        sys.argv = ["hostd", "ps", {form!r}]
        try:
            main()
        except SystemExit as ended:
            assert not ended.code
    """
    found = imported(code, HOSTD_ENDPOINT=host.endpoint)
    assert "hostd.client._sync.client" in found
    assert not (found - at_start) & (SETTINGS | RARE | {"asyncio", "ssl", "sqlite3", "hostd.shell", "hostd.embed"})
    assert ("rich" in found) == (form != "--json")


def test_a_name_is_found_while_another_thread_imports_a_home_of_others():
    """Its module is there, and has not all of its names yet."""
    code = """
        import sys, types, hostd
        sys.modules["hostd.client._sync.client"] = types.ModuleType("hostd.client._sync.client")
        print(hostd.ModelInfo.__module__, hostd.LogLine.__module__)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "hostd hostd\n"
