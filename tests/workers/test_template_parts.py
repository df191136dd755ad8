"""The parts of a template: what it imports, what makes it unfit to be forked, and what its children set right."""

import builtins
import os
import random
import re
import socket
import sys
import types

import pytest
from helpers import line_of, program

from hostd_workers.process import installed
from hostd_workers.template import importing, rehearsal, threads
from hostd_workers.template.child import _take_environment
from hostd_workers.template.main import _refuse
from hostd_workers.template.randomness import generators
from hostd_workers.template.threads import Pools
from hostd_workers.wire import template as wire
from hostd_workers.wire.errors import FailedPreconditionError

# Modules


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory that distributions are installed into, at the end of the path."""
    site = tmp_path / "site"
    site.mkdir()
    known = set(sys.modules)
    monkeypatch.setattr(installed, "places", lambda: (f"{site}/",))
    monkeypatch.setattr(importing, "places", lambda: (f"{site}/",))
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    yield site
    for name in sys.modules.keys() - known:
        del sys.modules[name]


@pytest.fixture
def safe(monkeypatch):
    """A process of one thread that has no library to be used, whatever the tests run in."""
    monkeypatch.setattr(importing.State, "why_unsafe", lambda *_: "")
    monkeypatch.setattr(importing, "first_uses", list)


def test_what_is_installed_is_told_from_what_is_not(place, tmp_path, monkeypatch):
    (place / "inst_a.py").write_text("import inst_b")
    (place / "inst_b.py").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own_c.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    count = len(sys.modules)
    import inst_a  # noqa: F401
    import own_c  # noqa: F401

    assert installed.imported_since(count) == ["inst_b", "inst_a"], "as they were done"
    assert installed.foreign(["inst_a", "own_c", "sys", "no_such"]) == ["own_c"]
    for name in ("json.py", "inst_a/__init__.py", "inst_b.pkl", "own_c.txt"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_text("")
    assert installed.hidden_by(str(elsewhere)) == ["inst_a"]
    assert installed.hidden_by(str(tmp_path / "absent")) == []
    with pytest.raises(FailedPreconditionError, match="has a inst_a of its own"):
        installed.refuse_if_hidden(str(elsewhere))


def test_only_installed_modules_are_imported_and_what_cannot_be_is_left_out(place, safe, tmp_path, monkeypatch):
    (place / "good_a.py").write_text("import sys; sys.path.append('/added')")
    (place / "broken.py").write_text("1 / 0")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own_d.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    before, noted = sys.path[:], []
    assert importing.import_all(["good_a", "broken", "own_d", "good_a", "no_such"], noted.append) is None
    assert noted == ["good_a", "broken", "own_d", "no_such"]
    assert "good_a" in sys.modules
    assert not {"broken", "own_d", "no_such"} & sys.modules.keys()
    assert sys.path == [*before, "/added"]


def test_the_first_use_of_a_library_is_looked_at_as_its_import_is(place, safe, monkeypatch):
    noted, used = [], []
    (place / "used_g.py").write_text("")

    def use(library):
        used.append(library.__name__)
        raise SystemExit

    monkeypatch.setattr(importing, "first_uses", rehearsal.first_uses)
    monkeypatch.setattr(rehearsal, "_FIRST_USES", {"used_g": use, "absent": use})
    assert importing.import_all(["used_g"], noted.append) == ("used_g", "it raises SystemExit")
    assert (noted, used) == (["used_g", "used_g"], ["used_g"])


def test_a_library_that_takes_code_from_elsewhere_is_unsafe(place, safe, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own_e.py").write_text("")
    (place / "reaches.py").write_text(f"import sys; sys.path.insert(0, {str(elsewhere)!r}); import own_e")
    assert importing.import_all(["reaches"], len) == (
        "reaches",
        "it imports own_e, which is of no installed distribution",
    )


def test_a_library_that_another_place_hides_is_unsafe(place, safe, tmp_path, monkeypatch):
    (place / "twice_f.py").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "twice_f.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    assert importing.import_all(["twice_f"], len) == ("twice_f", f"{elsewhere} hides it")


def test_a_library_that_ends_its_process_is_unsafe(place, safe):
    (place / "quits.py").write_text("raise SystemExit(1)")
    assert importing.import_all(["quits"], len) == ("quits", "it raises SystemExit")


def test_a_package_that_is_installed_anew_shows(place, safe):
    package = place / "pack_g"
    package.mkdir()
    (package / "__init__.py").write_text("")
    importing.import_all(["pack_g"], len)
    files = importing.files_of(["pack_g", "pack_g.part", "sys"])
    assert os.fsdecode(files).split("\0") == [f"{place}/", str(package / "__init__.py"), str(package)]
    before = importing.changes_of(files)
    os.utime(package / "__init__.py", (1, 1))
    assert importing.changes_of(files) != before
    (package / "__init__.py").unlink()
    assert importing.changes_of(files).split()[1] == b"0"


# Randomness


def test_each_generator_that_there_is_is_reseeded_but_not_one_with_a_seed_of_its_own():
    source = """
        import multiprocessing, random
        import numpy
        from hostd_workers.template.randomness import generators
        kept = [random.Random(1), numpy.random.RandomState(1), numpy.random.default_rng(), numpy.random.default_rng(7)]
        def drawn():
            one, legacy, new, seeded = kept
            key = bytes(multiprocessing.current_process().authkey)
            return [one.random(), legacy.random_sample(), new.random(), numpy.random.random(), key, seeded.random()]
        before = [kept[0].getstate(), kept[1].get_state(), kept[2].bit_generator.state, numpy.random.get_state()]
        fixed = kept[3].bit_generator.state
        first = drawn()
        kept[0].setstate(before[0]), kept[1].set_state(before[1]), numpy.random.set_state(before[3])
        kept[2].bit_generator.state, kept[3].bit_generator.state = before[2], fixed
        for reseed in generators():
            reseed()
        print([a == b for a, b in zip(drawn(), first)])
    """
    pytest.importorskip("numpy")
    with program(source) as process:
        assert line_of(process) == "[False, False, False, False, False, True]"


def test_generators_of_torch_are_reseeded(monkeypatch):
    seeded = []
    torch = types.ModuleType("torch")

    def seed(self):
        seeded.append(self)

    torch.Generator = type("Generator", (), {"seed": seed})
    torch.seed = lambda: seeded.append("global")
    monkeypatch.setitem(sys.modules, "torch", torch)
    kept = torch.Generator()
    for reseed in generators():
        reseed()
    assert set(seeded) >= {kept, "global"}
    assert random.random() != random.random()


# Threads


def test_the_number_of_threads_is_what_the_library_itself_would_read():
    environment = {"OMP_NUM_THREADS": "4,2", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "many"}
    assert threads._wanted(environment, "openblas", "blas") == 3
    assert threads._wanted(environment, "unknown", "openmp") == 4
    assert threads._wanted(environment, "mkl") == 4
    assert threads._wanted(environment, "unknown") is None
    assert threads._wanted({}, "openmp") is None


class Controller:
    """A pool of a library."""

    internal_api, user_api = "openmp", "openmp"

    def __init__(self):
        self.num_threads = 1

    def set_num_threads(self, number):
        self.num_threads = number


def test_pools_are_set():
    pools = Pools()
    openmp, openblas = Controller(), Controller()
    openblas.internal_api = "openblas"
    pools._keep([openmp, openblas])
    pools.set({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "4096"})
    assert openmp.num_threads == 2
    assert openblas.num_threads == len(os.sched_getaffinity(0)), "as it does itself"


def test_what_nothing_can_set_keeps_to_one_thread_and_says_so(monkeypatch):
    imported = builtins.__import__

    def absent(name, *arguments):
        if name == "threadpoolctl":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(threads, "_POOLS", re.compile(r"/[^/\n]*libc[^/\n]*\.so"))
    monkeypatch.setattr(builtins, "__import__", absent)
    assert "install threadpoolctl" in Pools().fixed


def test_libraries_with_interfaces_of_their_own_are_told(monkeypatch):
    told = {}
    torch, numexpr = types.ModuleType("torch"), types.ModuleType("numexpr")
    torch.get_num_threads, torch.set_num_threads = lambda: 1, lambda number: told.update(torch=number)
    numexpr.set_num_threads = lambda number: told.update(numexpr=number)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "numexpr", numexpr)
    pools = Pools()
    pools._controllers = []
    pools.set({"MKL_NUM_THREADS": "3", "NUMEXPR_NUM_THREADS": "2"})
    assert told == {"torch": 3, "numexpr": 2}
    pools.set({"NUMEXPR_NUM_THREADS": "all"})


# Environment


def test_a_child_has_its_own_environment_and_what_imports_have_set(monkeypatch):
    its_own = {"A": "template's", "B": "template's", "SAME": "x=y", "TAKEN": "x", "GONE": "template's"}
    monkeypatch.setattr(os, "environ", {**its_own, "SET": "by a library"})
    del os.environ["TAKEN"], os.environ["GONE"]
    wanted = {"A": "worker's", "C": "w\N{LATIN SMALL LETTER E WITH ACUTE}\udcff=", "SAME": "x=y", "SET": "worker's"}
    changes = wire.packed_changes({**wanted, "GONE": "worker's"}, its_own)
    _take_environment(changes, {"SET", "GONE"})
    assert os.environ == {**wanted, "SET": "by a library"}
    assert b"SAME" not in changes


@pytest.mark.parametrize("wrong", [{"A=": ""}, {"A\0": ""}, {"A": "\0"}])
def test_what_no_environment_can_hold_is_refused(wrong):
    with pytest.raises(ValueError, match="an environment cannot have"):
        wire.packed_changes(wrong, {})


def test_an_order_is_answered_when_the_system_makes_no_process():
    ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, control, answers:
        with theirs, open(os.devnull) as order, open(os.devnull) as log:
            socket.send_fds(ours, [wire.ORDER], [order.fileno(), log.fileno(), theirs.fileno()])
        before = os.listdir("/proc/self/fd")
        _refuse(control, OSError(11, "no more"), {"ready": 1})
        assert os.listdir("/proc/self/fd") == before
        assert wire.unpacked(ours.recv(100)) == {"ready": 1}
        assert wire.unpacked(answers.recv(100)) == {"refused": "[Errno 11] no more"}


def test_a_packet_that_is_none_says_nothing():
    assert wire.unpacked(b"\xff") == wire.unpacked(b"[1]") == {}
    assert wire.unpacked(wire.packed({"pid": 1})) == {"pid": 1}
    assert wire.noted("x" * 1000) == b"x" * wire.NOTE_BYTES
