"""The README and the pages that it links are true: their programs run as they stand, their tables are complete."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

import hostd
from hostd.cli.root import COMMANDS
from hostd.config.settings import HostConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "hostd" / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, *(ROOT / "hostd").glob("*.md"), *(ROOT / ".github").glob("*.md")]
PAGES = [*PAGES, ROOT / "workers" / "PROTOCOL.md"]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block_with(words, language="sh"):
    (block,) = [code for found, code in BLOCKS if found == language and words in code]
    return block


def anchors_of(text):
    """What GitHub makes of headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    for page, text in TEXTS.items():
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_the_readme_is_short_and_leads_to_every_page():
    assert README.count("\n") < 300
    assert [page.name for page in DOCS if f"(hostd/docs/{page.name})" not in README] == []


def test_the_figures_of_the_readme_are_those_of_the_page_about_speed():
    rows = [line for line in README[README.index("## Speed") :].splitlines() if line.startswith("|")]
    figures = [row for row in rows if "](" not in row and row.count("|") == 4]
    speed = (ROOT / "hostd" / "docs" / "speed.md").read_text(encoding="utf-8").splitlines()

    assert len(figures) > 5
    assert [row for row in figures if row not in speed] == []


def test_the_readme_names_every_command_and_no_other():
    table = README[README.index("## Commands") : README.index("`hostd COMMAND --help`")]
    assert set(re.findall(r"`(\w+)`", table)) == set(COMMANDS)


def test_the_picture_is_small_and_fetches_nothing():
    picture = (ROOT / "hostd" / "docs" / "session.svg").read_text(encoding="utf-8")
    assert len(picture) < 30_000
    assert re.findall(r"(?:href|src|url)\W+(?:https?:|data:)", picture) == []
    assert re.findall(r"hostd&#160;(\w+)", picture) == ["load", "load", "infer", "ps", "ls", "unload"]


def test_it_opens_with_exactly_two_set_up_commands():
    commands = [
        line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if "-m venv" in line
    ]

    assert [("hostd demo" in line, "pytest" in line) for line in commands] == [(True, False), (False, True)]


def test_the_configuration_reference_names_every_setting_and_no_other():
    settings = set()
    for name, field in HostConfig.model_fields.items():
        section = getattr(field.annotation, "model_fields", None)
        settings |= {f"{name}.{key}" for key in section} if section else {name}

    table = (ROOT / "hostd" / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} == settings


@pytest.fixture(params=["models.lazy_load=true"])
def serving(tmp_path, request):
    """A host as the README serves one with a models directory; what a shell needs to use it."""
    (tmp_path / "models").mkdir()
    (line,) = [line for line in block_with(request.param).splitlines() if line.startswith("hostd serve ")]
    line = line.replace("/tmp/models", str(tmp_path / "models")).replace("--http 8000", f"--http {free_port()}")
    arguments = line.split()[2:]
    # A short directory: the path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hostd-r-") as runtime:
        environment = {
            **os.environ,
            "HOSTD_RUNTIME_DIR": f"{runtime}/run",
            "HOSTD_STATE_DIR": str(tmp_path / "state"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        if "--http" in arguments:
            environment["HTTP_PORT"] = arguments[arguments.index("--http") + 1]
        command = [sys.executable, "-m", "hostd", "serve", *arguments]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
        ) as host:
            assert "is ready at" in host.stdout.readline()
            yield environment
            host.terminate()
            host.wait(60)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def run(environment, directory, *command):
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_program_and_the_tour_run_as_they_stand(serving, tmp_path):
    def as_it_stands(words, language="sh"):
        block = block_with(words, language).replace("/tmp/greeter", str(tmp_path / "greeter"))
        return block.replace(". .venv/bin/activate\n", "set -e\n")

    run(serving, tmp_path, "bash", "-c", as_it_stands("cat > /tmp/greeter/model.py"))
    first = as_it_stands("# first.py", "python")
    assert [line for line in first.splitlines() if line][-1].strip().startswith("print(client.unload_model(")
    assert len([line for line in first.splitlines() if line and not line.startswith("#")]) <= 10
    assert run(serving, tmp_path, sys.executable, "-c", first).startswith("Hello, Ada!\n[0, 1, 2]\n")

    assert "Welcome, Ada!" in run(serving, tmp_path, "bash", "-c", as_it_stands("hostd load greeter"))
    run(serving, tmp_path, sys.executable, "-c", as_it_stands("hostd.connect()", "python"))


def file_of(name):
    (code,) = re.findall(rf"```\w+\n(# {name}\n.*?)```", TEXTS[ROOT / "hostd" / "docs" / "plugins.md"], re.DOTALL)
    return code


def test_the_tutorial_of_plugins_is_short_and_runs_as_it_stands(tmp_path, monkeypatch):
    for name in ("my_plugins.py", "words.py", "hostd.yaml"):
        (tmp_path / name).write_text(file_of(name))
        assert file_of(name).count("\n") < 30
    model = tmp_path / "greetings"
    model.mkdir()
    (model / "words.txt").write_text("Hello Welcome ")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sections = yaml.safe_load(file_of("hostd.yaml"))

    with hostd.Host(**sections) as host:
        client = host.client()
        assert client.estimate_model_size("greetings", model) == hostd.SizeEstimate(14 // 6 * 120, "estimated")
        words = client.load_model("greetings", model)
        assert (words.knows("hello"), words.knows("Hello")) == (True, False)
        assert words.info.loader == "words:load"


def test_the_deploys_of_the_readme_run_as_they_stand(serving, tmp_path):
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "model.py").write_text(
        "class Greeter:\n    def greet(self): ...\n\ndef load(path):\n    return Greeter()\n"
    )
    commands = block_with("hostd undeploy").replace("/tmp/greeter", str(tmp_path / "greeter"))
    for _ in range(2):  # what is undeployed can be deployed again
        run(serving, tmp_path, "bash", "-e", "-c", commands)


@pytest.mark.parametrize("serving", ["--http 8000"], indirect=True)
def test_the_readme_over_http_runs_as_it_stands(serving, tmp_path):
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "model.py").write_text(
        "class Greeter:\n    def greet(self, name): return f'Hello, {name}!'\n\ndef load(path):\n    return Greeter()\n"
    )
    commands = block_with("curl -sf localhost:8000").replace("/tmp/greeter", str(tmp_path / "greeter"))
    said = run(serving, tmp_path, "bash", "-e", "-c", commands.replace(":8000", ":$HTTP_PORT"))
    assert '{"result":"Hello, Ada!"}' in said
    assert '"platform":"python"' in said
