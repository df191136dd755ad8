"""Models in virtual environments that pip made: two versions of one library at once, and a plugin of an environment."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

OLD, NEW = "1.15.0", "1.16.0"
"""Of six: one file, and nothing that it needs."""
NEEDS = ("pyzmq", "msgpack")
UNREACHABLE = re.compile(
    r"connection (broken|error|refused|timed out)|failed to establish|name resolution|temporary failure|ProxyError|"
    r"Network is unreachable",
    re.IGNORECASE,
)

VERSION = """
    import sys
    import six

    class Model:
        def version(self):
            return six.__version__

        def where(self):
            return sys.prefix

        def installed(self):
            from importlib.metadata import distributions
            return sorted({found.metadata["Name"].lower() for found in distributions() if sys.prefix in str(found._path)})

        def predict(self, x):
            return six.text_type(x)

    def load(path):
        return Model()
"""


def make(place, *packages):
    """Make a virtual environment with these packages and return it; the test is skipped if no index can be reached."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120, capture_output=True)
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input", "--retries", "1", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"pip can reach no index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return place


PLUGIN = """
    class Loud:
        def __init__(self, text, mark):
            self.text, self.mark = text, mark

        def predict(self):
            return self.text.upper() + self.mark

    def load(path, *, mark="!"):
        with open(path + "/words.txt") as file:
            return Loud(file.read(), mark)
"""


@pytest.mark.timeout(400)  # pip installs twice
def test_two_models_use_two_versions_of_a_library_at_once_and_a_loader_may_be_of_an_environment(
    shared, model_dir, tmp_path
):
    places = {version: make(tmp_path / version, *NEEDS, f"six=={version}") for version in (OLD, NEW)}
    models = {
        version: shared.load_model(f"six-{version}", model_dir(VERSION, settings=f"python: {place}/bin/python"))
        for version, place in places.items()
    }
    for _ in range(3):
        assert {version: model.version() for version, model in models.items()} == {OLD: OLD, NEW: NEW}
    for version, model in models.items():
        assert (Path(model.where()), model.predict(3)) == (places[version], "3")
        assert set(model.installed()) - {"pip", "setuptools"} == {*NEEDS, "six"}, "a worker needs nothing else"
    site = next((places[OLD] / "lib").glob("python*/site-packages"))
    (site / "loud.py").write_text(textwrap.dedent(PLUGIN))
    about = site / "loud-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hostd.loaders]\nloud = loud:load\n")
    settings = f"{{loader: loud, options: {{mark: '?'}}, python: {places[OLD]}/bin/python}}"
    model = shared.load_model("loud", model_dir(settings=settings, files={"words.txt": "hello"}))
    assert (model.predict(), model.info.loader) == ("HELLO?", "loud")
