"""What a start finds in a staging area after an end: interrupted operations are undone, or tidied up.

That an operation may be killed anywhere is in `test_staging_kills`; strange entries are in `test_staging_entries`, other
hosts in `test_staging_hosts`.
"""

import contextlib
import json
import os

import pytest
from kernels import Watched
from path_corpus import canary
from staging_rig import FILES, begin, deploy, names, tree

from hostd.core.names import STAGING_NAME
from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory
from hostd_workers.wire.errors import FailedPreconditionError, HostError


def interrupt(upload):
    """Let go of an operation as a killed host does."""
    for fd in (upload._tree_fd, upload._area.staging_fd, upload._area.models_fd, upload._journal._fd):
        os.close(fd)


def test_nothing_to_recover_says_nothing_and_makes_nothing(staging, models):
    assert staging.recover() == []
    assert names(models) == []


def test_c30_what_was_interrupted_is_undone_and_said(staging, models):
    upload = begin(staging, "team/m")
    upload.install()
    interrupt(upload)
    assert staging.recover() == ["undid the interrupted deploy of 'team/m'"]
    assert names(models) == []


def test_c30_what_was_confirmed_stays_and_is_tidied_up(staging, models):
    deploy(staging, "m", {"model.yaml": b"old"})
    upload = begin(staging, replace=True)
    upload.install()
    upload.confirm()
    interrupt(upload)
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert tree(models) == {f"m/{name}": content for name, content in FILES.items()}


def test_c30_an_entry_that_was_cut_anywhere_before_the_move_is_recovered(models, kernel):
    """A power cut may leave any beginning of a line that was not flushed; nothing moves before it is."""
    staging = Staging(ModelsDirectory(models, calls=kernel))
    deploy(staging, "m", {"model.yaml": b"old"})
    before = canary(models)
    cut, length = 0, 1
    while cut <= length:
        upload = begin(staging, replace=True)
        upload._journal.note(tree=os.fstat(upload._tree_fd).st_ino, first_made=0)
        (entry,) = (models / STAGING_NAME).glob("*.json")
        length = len(entry.read_bytes())
        interrupt(upload)
        os.truncate(entry, cut)
        assert len(staging.recover()) == 1
        assert canary(models) == before, f"cut at {cut} of {length}"
        cut += 1
    assert length > 80


def test_c30_an_entry_that_could_not_be_read_is_recovered_when_it_can(models, kernel):
    """Its lock must be let go of, or nobody could, until the end of this process."""
    fails = ["pread"]

    def before(name, arguments):
        if name in fails:
            raise OSError(5, "Input/output error")

    interrupt(begin(Staging(ModelsDirectory(models))))
    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    (said,) = staging.recover()
    assert "Input/output error" in said
    fails.clear()
    assert staging.recover() == ["undid the interrupted deploy of 'm'"]
    assert names(models) == []


ENDLESS = 10_000


@pytest.mark.parametrize("ending", ["undo", "tidy up"])
def test_c30_whichever_call_of_a_recovery_fails_the_next_one_does_it(models, kernel, ending):
    point, fails = 0, []

    def before(name, arguments):
        if len(fails) < point:
            fails.append(name)
            if len(fails) == point:
                raise OSError(5, "Input/output error")

    sound, calls = Staging(ModelsDirectory(models)), Watched(kernel, before)
    for point in range(1, ENDLESS):
        deploy(sound, "team/m", {"model.yaml": b"old"}, replace=True)
        upload = begin(sound, "team/m", replace=True)
        upload.install()
        if ending == "tidy up":
            upload.confirm()
        interrupt(upload)
        fails.clear()
        with contextlib.suppress(HostError):
            Staging(ModelsDirectory(models, calls=calls)).recover()
        has_failed = len(fails) == point
        sound.recover()
        assert tree(models / "team" / "m") == ({"model.yaml": b"old"} if ending == "undo" else FILES), fails[-1]
        assert names(models) == ["team"], fails[-1]
        if not has_failed:
            break
    assert point > 20


def test_c25_a_models_directory_that_is_gone_is_said(tmp_path):
    staging = Staging(ModelsDirectory(tmp_path / "gone"))
    for act in (staging.recover, lambda: begin(staging), lambda: staging.remove("m"), lambda: staging.check("m")):
        with pytest.raises(FailedPreconditionError, match="is not there; create it"):
            act()


def test_c30_a_roll_back_that_failed_may_be_repeated_or_recovered(models, kernel):
    fails = []

    def before(name, arguments):
        if name in fails:
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    for finish in ("roll_back", "recover"):
        upload = begin(staging, "team/m")
        upload.install()
        fails.append("rmdir")
        with pytest.raises(HostError, match="Input/output error"):
            upload.roll_back()
        fails.clear()
        if finish == "roll_back":
            upload.roll_back()
        else:
            assert len(staging.recover()) == 1
            upload.roll_back()
        assert names(models) == []


@pytest.mark.parametrize("act", ["replace", "undeploy"])
def test_c30_c31_a_commitment_that_failed_is_none_although_its_byte_was_written(models, kernel, act):
    """As fsync(2) has it: an error, and the page cache holds the data. Then undoing fails, too, and a recovery comes."""
    fails = []

    def before(name, arguments):
        if name == "pwrite" and arguments[1] == b"1":
            os.pwrite(*arguments)
            fails.extend(["rename", "renameat2"])
            raise OSError(5, "Input/output error")
        if name in fails:
            raise OSError(5, "Input/output error")

    old = {"model.yaml": b"old"}
    deploy(Staging(ModelsDirectory(models)), "m", old)
    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    if act == "undeploy":
        operation = staging.remove("m")
    else:
        operation = begin(staging, replace=True)
        operation.install()
    for step in (operation.confirm, operation.roll_back):
        with pytest.raises(HostError, match="Input/output error"):
            step()
    assert len(Staging(ModelsDirectory(models)).recover()) == 1
    assert tree(models / "m") == old
    assert names(models) == ["m"]


def test_c30_what_was_undone_is_not_undone_again_when_its_inode_is_used_again(models, kernel):
    """Between the end of the new tree and the end of its entry another host may deploy, and get the same inode."""
    fails = []

    def before(name, arguments):
        if name in fails and arguments[0].endswith(".json"):
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    upload = begin(staging)
    upload.install()
    fails.append("unlink")
    with pytest.raises(HostError):
        upload.roll_back()
    fails.clear()
    (models / "m").mkdir()
    (entry,) = (models / STAGING_NAME).glob("*.json")
    with entry.open("a") as notes:
        notes.write(json.dumps({"tree": (models / "m").stat().st_ino, "first_made": 0}) + "\n")
    assert staging.recover() == ["tidied up after the interrupted deploy of 'm'"]
    assert names(models) == ["m"]


def test_c30_a_clean_that_failed_may_be_repeated_or_recovered(models, kernel):
    fails = []

    def before(name, arguments):
        if name in fails:
            raise OSError(5, "Input/output error")

    staging = Staging(ModelsDirectory(models, calls=Watched(kernel, before)))
    for finish in ("clean", "recover"):
        deploy(staging, "m", {"model.yaml": b"old"}, replace=True)
        upload = begin(staging, replace=True)
        upload.install()
        upload.confirm()
        fails.append("unlink")
        with pytest.raises(HostError, match="Input/output error"):
            upload.clean()
        fails.clear()
        if finish == "clean":
            upload.clean()
        else:
            assert len(staging.recover()) == 1
            upload.clean()
        assert names(models) == ["m"]
        assert tree(models / "m") == FILES


def test_c32_the_old_model_comes_back_even_if_the_new_one_was_taken_away(staging, models):
    deploy(staging, "team/m", {"model.yaml": b"old"})
    upload = begin(staging, "team/m", replace=True)
    upload.install()
    (models / "team").rename(models / "elsewhere")
    upload.roll_back()
    assert tree(models / "team" / "m") == {"model.yaml": b"old"}
