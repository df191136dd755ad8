"""A models directory for end-to-end tests, with models that note what they saw when they were loaded.

Nothing here asks the host, but for `states`, `causes` and `Work`.
"""

import itertools
import json
import os
import shutil
import textwrap
import uuid
from urllib.request import urlopen

from helpers import PATIENCE_S, eventually, lines_of
from prometheus_client.parser import text_string_to_metric_families

import hostd

FAILS_TWICE = "if len((RECORDS / name).read_text().splitlines()) < 3: raise ValueError('not yet')"
FAILS = "raise ValueError('these weights are bad')"
HANGS = "time.sleep(3600)"
GATED = "while not (RECORDS / (name + '.go')).exists(): time.sleep(0.002)"
"""What a model's `load` may do after it has noted what it saw; a gated one waits for `Rig.let_go`."""

AT_ONCE = {"write_quiet_period_s": 0, "lazy_load_retries": 0}
"""Settings of `models` for tests in which entries come in one move: nothing has to settle, nothing is tried again."""

FOLLOWED = {**AT_ONCE, "lazy_load": True, "poll_period_s": 0.05}
"""The same, and the directory is followed."""

_MODEL = """
import json, os, pathlib, time

MODELS, RECORDS = pathlib.Path({models!r}), pathlib.Path({records!r})

class Model:
    def predict(self, x):
        return x

    def generate(self, n):
        yield from range(n)

    def pid(self):
        return os.getpid()

    def die(self):
        os.kill(os.getpid(), 9)

    def work(self, marker, release):
        pathlib.Path(marker).touch()
        while not pathlib.Path(release).exists():
            time.sleep(0.002)
        return "finished"

def load(path, **options):
    top = pathlib.Path(path)
    name = os.path.relpath(path, MODELS).replace("/", "%")
    files = [file for file in top.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    line = json.dumps({{str(file.relative_to(top)): file.stat().st_size for file in files}}) + "\\n"
    with open(RECORDS / name, "a") as file:
        file.write(line)
    {body}
    return Model()
"""


class Rig:
    """The directory `path`; whatever is loaded from it leaves a line in `records`."""

    def __init__(self, base):
        self.path = base / "models"
        self.records = base / "records"
        self._workshop = base / "workshop"
        self._count = itertools.count()
        for directory in (self.path, self.records, self._workshop):
            directory.mkdir()

    def source(self, body=""):
        """Return the text of a `model.py` that does `body` while it is loaded."""
        return _MODEL.format(models=str(self.path), records=str(self.records), body=textwrap.dedent(body))

    def make(self, body="", files=None):
        """Make a model outside of the directory."""
        made = self._workshop / str(next(self._count))
        made.mkdir()
        for name, text in {"model.py": self.source(body), **(files or {})}.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text)
        return made

    def add(self, name, body="", files=None):
        """Put a model into the directory, in one move."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return self.make(body, files).rename(place)

    def remove(self, name):
        """Take an entry out of the directory, in one move."""
        away = self._workshop / f"removed-{next(self._count)}"
        (self.path / name).rename(away)
        if away.is_dir() and not away.is_symlink():
            shutil.rmtree(away)

    def loads(self, name):
        """Return what each load of an entry saw: the sizes of its files by name."""
        return [json.loads(line) for line in lines_of(self.records / name.replace("/", "%"))]

    def loaded_names(self):
        """Return which entries any load was begun of."""
        return {entry.name.replace("%", "/") for entry in self.records.iterdir() if not entry.name.endswith(".go")}

    def let_go(self, name):
        """Let the load of a gated model end."""
        (self.records / f"{name.replace('/', '%')}.go").touch()

    def clear(self):
        """Take all entries away, and forget all loads."""
        for entry in os.listdir(self.path):
            self.remove(entry)
        for record in self.records.iterdir():
            record.unlink()

    def residue(self):
        """Return what deploys have left behind in the directory."""
        return sorted(entry for entry in os.listdir(self.path) if entry.startswith("."))


def states(client):
    """Return the state of each model by its id."""
    return {model.id: model.state for model in client.list_models()}


def causes(client, model_id):
    """Return the cause of each step of a model's story, none if the host does not know it."""
    try:
        return [event["cause"] for event in client.explain_model(model_id)["story"]]
    except hostd.NotFoundError:
        return []


class Work:
    """A call that has begun, and lasts until it is released."""

    def __init__(self, model, directory):
        marker, self._release = (directory / f"{kind}-{uuid.uuid4()}" for kind in ("begun", "release"))
        self.call = model.submit.work(str(marker), str(self._release))
        eventually(marker.exists, "the call has begun")

    def finish(self):
        """Let it end, and see that it does."""
        self._release.touch()
        assert self.call.result(PATIENCE_S) == "finished"


Sample = tuple[str, tuple[tuple[str, str], ...]]


def key(name, **labels):
    """Return the key of a sample on the page."""
    return name, tuple(sorted(labels.items()))


def page_text(port):
    """Return the text of the metrics page."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as response:
        return str(response.read().decode())


def samples(port):
    """Return the samples of the metrics page by name and labels."""
    return {
        key(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(page_text(port))
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
