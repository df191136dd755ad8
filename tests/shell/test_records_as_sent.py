"""Records in the form in which they are sent: exact, and encoded once per change."""

import pytest

from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.records import ModelInfo
from hostd.shell.control import records as module
from hostd.shell.control.records import Records
from hostd_workers.wire.codec import decode

CLIENT = ev.ClientId(b"client")


class Rig:
    """A core with models that load, and their records."""

    def __init__(self):
        self.core = Core(wall_offset_s=1e9)
        self.records = Records()
        self.encoded = []
        self._asked = 0

    def ask(self, kind, model_id, *arguments):
        self._asked += 1
        self.core.handle(kind(ev.Caller(CLIENT, self._asked), ev.ModelId(model_id), *arguments), float(self._asked))

    def load(self, model_id, **labels):
        source = ev.LoadSource(f"/models/{model_id}")
        self.ask(ev.LoadRequested, model_id, source, True, None, None, False, labels)

    def pin(self, model_id):
        self.ask(ev.PinRequested, model_id, True)

    def answer(self, **labels):
        """Return what is sent, read again, and forget what was encoded."""
        self.encoded.clear()
        models = self.core.queries.each_model()
        return [ModelInfo.from_dict(decode(packed)) for packed in self.records.encoded(models, labels)]


@pytest.fixture
def rig(monkeypatch):
    rig, encode = Rig(), module.encode
    monkeypatch.setattr(module, "encode", lambda value: rig.encoded.append(value["id"]) or encode(value))
    return rig


def test_a_record_is_encoded_once_per_change_and_the_list_is_exact(rig):
    for model_id in ("a", "b", "c"):
        rig.load(model_id)
    for changed in (["a", "b", "c"], []):
        assert rig.answer() == rig.core.queries.list_models()
        assert rig.encoded == changed
    rig.pin("b")
    assert rig.answer() == rig.core.queries.list_models()
    assert [model.pinned for model in rig.answer()] == [False, True, False]
    rig.load("d")
    rig.answer()
    assert rig.encoded == ["d"]


def test_a_list_by_labels_encodes_what_it_has_and_forgets_no_other(rig):
    rig.load("a", team="a")
    rig.load("b", team="b")
    assert [model.id for model in rig.answer(team="a")] == ["a"]
    assert rig.encoded == ["a"]
    assert rig.answer() == rig.core.queries.list_models()
    assert rig.encoded == ["b"]
    assert [model.id for model in rig.answer(team="a")] == ["a"]
    rig.answer()
    assert rig.encoded == []


def test_what_was_gone_for_a_while_is_encoded_anew(rig):
    rig.load("a")
    rig.answer()
    rig.ask(ev.UnloadRequested, "a", None)
    assert rig.answer() == []
    rig.load("a")
    assert rig.answer() == rig.core.queries.list_models()
    assert rig.encoded == ["a"]


def test_a_list_of_many_is_read_as_one_of_few(rig):
    names = [f"m{number:03}" for number in range(16)]
    for name in names:
        rig.load(name)
    assert [model.id for model in rig.answer()] == names
