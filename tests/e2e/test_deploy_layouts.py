"""What a deploy carries to the host: modes, empty folders, mounted volumes; and what a models directory leaves aside."""

import os
import stat

from deploy_rig import PLACES, await_tidy, files_of, put

import hostd


def test_executable_bits_and_empty_folders_arrive(deployer, models, tmp_path):
    source = put(tmp_path / "sources", "m", "hello")
    for folder in ("cache/deep", "out"):
        (source / folder).mkdir(parents=True)
    (source / "bin").mkdir()
    for name, mode in {"bin/tool": 0o700, "data": 0o600}.items():
        (source / name).write_text("x")
        (source / name).chmod(mode)
    deployer.deploy_model("m", source)
    umask = os.umask(0)
    os.umask(umask)
    modes = {name: stat.S_IMODE((models / "m" / name).stat().st_mode) for name in ("bin/tool", "data", "model.py")}
    assert modes == {"bin/tool": 0o750 & ~umask, "data": 0o640 & ~umask, "model.py": 0o640 & ~umask}
    assert [(models / "m" / name).is_dir() for name in ("cache/deep", "out")] == [True, True]
    deployer.undeploy_model("m")
    await_tidy(models)
    assert list(models.iterdir()) == []


def test_a_mounted_volume_is_deployed_and_loaded_by_path(deployer, models, tmp_path):
    volume = tmp_path / "volume"
    put(volume, "..2024_01_01", "first")
    (volume / "..data").symlink_to("..2024_01_01")
    for name in files_of(""):
        (volume / name).symlink_to(f"..data/{name}")
    assert deployer.deploy_model("deployed", volume).predict() == "first"
    assert sorted(path.name for path in (models / "deployed").iterdir() if path.name[0] != ".") == ["model.py", "text"]
    assert deployer.load_model("loaded", volume).predict() == "first"
    # The kubelet writes a new version and exchanges the link: other content is told, the same content is not.
    put(volume, "..2024_02_02", "first")
    (volume / "..data_tmp").symlink_to("..2024_02_02")
    (volume / "..data_tmp").rename(volume / "..data")
    assert not deployer.load_model("loaded", volume).files_changed
    put(volume, "..2024_03_03", "third")
    (volume / "..data_tmp").symlink_to("..2024_03_03")
    (volume / "..data_tmp").rename(volume / "..data")
    assert deployer.load_model("loaded", volume).files_changed
    assert deployer.load_model("loaded", volume, reload=True).predict() == "third"


def test_what_a_sync_leaves_aside_is_listed_with_its_reason(rig, tmp_path):
    models = rig.path
    put(models, "good", "hello")
    put(models, "bad", "bad")
    put(models, "half", "hello")
    put(tmp_path, "elsewhere", "hello")
    for name in ("good", "bad"):
        (models / name / "COMPLETE").touch()
    (models / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(models / "pipe")
    (models / "notes.txt").write_text("nothing")
    (models / " blank").mkdir()
    (models / ".hidden").mkdir()
    settings = {**PLACES, "dir": models, "completion_marker": "COMPLETE", "lazy_load_retries": 0}
    with hostd.Host(models={**settings, "load_on_start": False}) as host:
        client = host.client()

        def listed():
            models = client.list_models(all=True)
            return {model.id: (model.state, model.reason) for model in models if not model.generation}

        found = listed()
        assert "'COMPLETE'" in found["half"][1]
        assert {name: state for name, (state, _) in found.items()} == {
            "good": "AVAILABLE",
            "bad": "AVAILABLE",
            "half": "WRITING",
            "link": "IGNORED",
            "pipe": "IGNORED",
            "notes.txt": "IGNORED",
            " blank": "IGNORED",
        }
        client.sync_local_models(wait=True)
        found = listed()
        assert set(found) == {"bad", "link", "pipe", "notes.txt", " blank"}
        half = client.get_model("half")  # a load that waits until it is whole
        assert (half.state, "'COMPLETE'" in half.reason) == ("LOADING", True)
        for name, state, words in (
            ("bad", "FAILED", "this model is bad"),
            ("link", "IGNORED", "a symbolic link, which is not followed"),
            ("pipe", "IGNORED", "a pipe"),
            ("notes.txt", "IGNORED", "no finder knows"),
            (" blank", "IGNORED", "white space"),
        ):
            assert found[name][0] == state, name
            assert words in found[name][1], name
        client.unload_model("good")
        assert listed()["good"][0] == "AVAILABLE"
        assert client.load_model("link", tmp_path / "elsewhere").predict() == "hello"
        assert "link" not in listed()
