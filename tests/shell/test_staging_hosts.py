"""Hosts that share a models directory: what one works on the others leave alone, and what one removes is made again."""

import os

import pytest
from helpers import line_of, program, stop
from path_corpus import canary
from staging_rig import FILES, begin, deploy, installed, names, on, tree

from hostd.core.names import STAGING_NAME
from hostd.shell.deploys.staging import Staging
from hostd.shell.linux.syscalls import SystemCalls
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import AbortedError, NotFoundError


def test_c28_what_this_process_works_on_is_left_alone(staging, models):
    upload = begin(staging)
    before = canary(models)
    assert staging.recover() == []
    assert Staging(ModelsDirectory(models)).recover() == []
    assert canary(models) == before
    upload.install()
    assert staging.recover() == []
    assert tree(models / "m") == FILES
    upload.roll_back()


OTHER_HOST = """
    import sys
    from hostd.shell.repository.directory import ModelsDirectory
    from hostd.shell.deploys.staging import Staging
    upload = Staging(ModelsDirectory(sys.argv[1])).begin("m", [("model.yaml", 3)], replace=True)
    upload.write(0, 0, b"new")
    upload.install()
    print("installed", flush=True)
    __import__("signal").pause()
"""


def test_c28_another_living_host_is_left_alone_and_a_dead_one_is_cleared_away(staging, models):
    deploy(staging)
    other = program(OTHER_HOST, models)
    try:
        assert line_of(other) == "installed"
        assert staging.recover() == []
        assert tree(models / "m") == {"model.yaml": b"new"}
        with pytest.raises(AbortedError, match="another deploy of 'm' is under way"):
            staging.remove("m")
        upload = begin(staging, replace=True)
        with pytest.raises(AbortedError, match="try again when it is over"):
            upload.install()
        upload.roll_back()
        assert tree(models / "m") == {"model.yaml": b"new"}
    finally:
        stop(other)
    removal = staging.remove("m")  # recovers first
    removal.roll_back()
    assert tree(models / "m") == FILES
    assert names(models) == ["m"]


def test_c28_an_undeploy_under_way_keeps_others_out_until_it_is_confirmed(staging, models):
    deploy(staging)
    removal = staging.remove("m")
    upload = begin(staging)
    with pytest.raises(AbortedError, match="another undeploy of 'm'"):
        upload.install()
    upload.roll_back()
    with pytest.raises(NotFoundError):
        staging.remove("m")
    removal.confirm()
    assert deploy(staging)
    removal.clean()
    assert tree(models / "m") == FILES


def test_c28_what_lies_in_a_model_that_moves_waits_and_the_other_way_round(staging, models):
    """Put into the old tree of a replacement that is under way, it would be confirmed, and removed with that tree."""
    deploy(staging, "m")
    outer = installed(staging, "m", replace=True)
    inner = begin(staging, "m/in/ner")
    with pytest.raises(AbortedError, match="another deploy of 'm' is under way"):
        inner.install()
    inner.roll_back()
    assert deploy(staging, "m2")
    outer.confirm()
    outer.clean()
    inner = installed(staging, "m/in/ner")
    outer = begin(staging, "m", replace=True)
    for act in (lambda: staging.remove("m"), outer.install):
        with pytest.raises(AbortedError, match="another deploy of 'm/in/ner' is under way"):
            act()
    outer.roll_back()
    inner.roll_back()
    assert tree(models / "m") == FILES
    assert names(models) == ["m", "m2"]


class Thrice:
    """What another host does just before a call, the first three times."""

    def __init__(self, is_time, act):
        self.is_time, self.act, self.times = is_time, act, 0

    def __call__(self, name, arguments):
        if self.times < 3 and self.is_time(name, arguments):
            self.times += 1
            self.act()


def test_c28_an_area_that_another_host_removes_is_made_again(models):
    removes = Thrice(
        lambda name, arguments: name == "open" and str(arguments[0]).endswith(".json"),
        lambda: os.rmdir(models / STAGING_NAME),
    )
    deploy(on(models, SystemCalls(), removes))
    assert removes.times == 3
    assert names(models) == ["m"]


def test_c28_a_folder_that_another_host_removes_is_made_again(models, kernel):
    def is_move(name, arguments):
        moves = name == "renameat2" or (name == "rename" and "renameat2" not in type(kernel).__dict__)
        return moves and arguments[2] == "m"

    removes = Thrice(is_move, lambda: os.rmdir(models / "team"))
    staging = on(models, kernel, removes)
    deploy(staging, "team/m")
    assert removes.times == 3
    removal = staging.remove("team/m")
    removes.times = 0
    removal.roll_back()
    assert removes.times == 3
    assert tree(models / "team" / "m") == FILES


def test_c28_an_entry_that_a_recovery_takes_away_at_its_birth_is_made_again(models):
    """Between the making and the locking of an entry another host may hold it for the remains of a crash."""
    recovered = []
    recovers = Thrice(
        lambda name, _: name == "try_lock", lambda: recovered.extend(Staging(ModelsDirectory(models)).recover())
    )
    deploy(on(models, SystemCalls(), recovers))
    assert recovers.times == len(recovered) == 3
    assert names(models) == ["m"]


def test_c28_someone_elses_newer_model_survives_the_undoing_of_a_replacement(staging, models):
    deploy(staging, "m", {"model.yaml": b"old"})
    upload = installed(staging, replace=True)
    (models / "m").rename(models / "moved-away")
    (models / "m").mkdir()
    (models / "m" / "newer").write_text("x")
    upload.roll_back()
    assert tree(models / "m") == {"newer": b"x"}
    assert tree(models / "moved-away") == FILES
    assert STAGING_NAME not in names(models)


TURNS = 30


def test_c28_hosts_racing_for_one_id_leave_one_model_and_nothing_else(models):
    """Real processes, without any shared memory: without `replace` at most one is told that it was its."""
    source = """
import sys
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.deploys.staging import Staging
from hostd_workers.wire.errors import HostError
staging = Staging(ModelsDirectory(sys.argv[1]))
for turn in range(int(sys.argv[3])):
    upload = staging.begin(f"m{turn}", [("a", 1)], replace=True) if turn % 2 else None
    try:
        upload = upload or staging.begin(f"m{turn}", [("a", 1)], replace=False)
        upload.write(0, 0, sys.argv[2].encode())
        upload.install()
    except HostError:
        if upload is not None:
            upload.roll_back()
        continue
    upload.confirm()
    print(turn)
    upload.clean()
"""
    racers = {letter: program(source, models, letter, TURNS) for letter in "ABC"}
    winners = {}
    try:
        for letter, racer in racers.items():
            said, _ = racer.communicate(timeout=100)
            assert racer.returncode == 0
            for turn in map(int, said.split()):
                winners[turn] = winners.get(turn, "") + letter
    finally:
        for racer in racers.values():
            stop(racer)
    assert Staging(ModelsDirectory(models)).recover() == []
    assert STAGING_NAME not in names(models)
    assert winners, "nobody ever won"
    assert all(len(won) == 1 for turn, won in winners.items() if turn % 2 == 0), "two think that it is theirs"
    there = tree(models)
    assert there.keys() == {f"m{turn}/a" for turn in winners}
    assert all(content.decode() in winners[int(name[1:-2])] for name, content in there.items())
