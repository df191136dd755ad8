"""Undeploys on the disk: all of a model goes, and nothing but it."""

import os

import pytest
from path_corpus import canary
from staging_rig import deploy, finish, names, on, undeploy

from hostd_workers.wire.errors import HostError, NotFoundError


@pytest.mark.parametrize("model_id", ["m", "team/m", "a/b/c/d"])
def test_c31_an_undeploy_takes_all_of_it_and_empty_folders(staging, models, model_id):
    deploy(staging, model_id)
    staging.check(model_id)
    removal = staging.remove(model_id)
    assert not (models / model_id).exists()
    finish(removal)
    assert names(models) == []
    with pytest.raises(NotFoundError, match="there is no model"):
        staging.remove(model_id)


def test_c31_an_undeploy_can_be_undone(staging, models):
    deploy(staging, "team/m")
    before = canary(models)
    removal = staging.remove("team/m")
    (models / "team").rmdir()  # as another host does that finds it empty
    removal.roll_back()
    assert canary(models) == before


def test_c31_a_folder_of_models_is_no_model(staging, models):
    deploy(staging, "team/group/m")
    (models / "team" / ".gitkeep").write_bytes(b"")
    before = canary(models)
    for folder in ("team", "team/group"):
        with pytest.raises(NotFoundError, match="a folder with models in it; undeploy those"):
            staging.remove(folder)
    assert canary(models) == before


def test_c31_all_of_a_wide_tree_is_removed_and_no_link_in_it_is_followed(staging, models, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    deploy(staging)
    for index in range(50):
        (models / "m" / f"{index}" / "x").mkdir(parents=True)
        (models / "m" / f"{index}" / "x" / "y").write_text("")
    (models / "m" / "link").symlink_to(tmp_path / "outside")
    (models / "m" / "weights" / "link").symlink_to(tmp_path / "outside" / "precious")
    os.mkfifo(models / "m" / "fifo")
    undeploy(staging)
    assert names(models) == []
    assert (tmp_path / "outside" / "precious").read_text() == "x"


def test_c31_a_tree_of_any_depth_is_removed(staging, models):
    (models / "m").mkdir()
    (models / "m" / "model.yaml").write_text("")
    at = os.open(models / "m", os.O_RDONLY)
    for _ in range(1100):  # deeper than a path may be long, and than Python recurses
        os.mkdir("d" * 9, dir_fd=at)
        inner = os.open("d" * 9, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    undeploy(staging)
    assert names(models) == []


def test_c31_a_tree_that_is_moved_while_it_is_removed_leads_nowhere_else(models, kernel, tmp_path):
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    moved = []

    def before(name, arguments):
        if name == "open" and arguments[0] == ".." and not moved:
            (inner,) = models.glob(".hostd-staging/*/inner")
            moved.append(inner.rename(outside / "moved"))

    (models / "m" / "inner").mkdir(parents=True)
    (models / "m" / "file").write_text("")
    removal = on(models, kernel, before).remove("m")
    removal.confirm()
    with pytest.raises(HostError, match="was moved while it was being removed"):
        removal.clean()
    assert names(outside) == ["inner", "moved"]
    removal.clean()
    assert names(models) == []
