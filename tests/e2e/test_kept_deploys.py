"""What a model was deployed with holds after a restart, however it is loaded then; and pins of deployed models last."""

import json

import pytest
from deploy_rig import PLACES, await_tidy, refusal
from helpers import eventually
from models_rig import states

import hostd
from hostd.core.names import KEPT_NAME

CODE = b"""
import os
from pathlib import Path

class Greeter:
    def __init__(self, path, greeting, mark):
        self.path, self.greeting, self.mark = Path(path), greeting, mark

    def greet(self, name):
        return f"{self.greeting}, {name}{self.mark}"

    def files(self):
        return sorted(os.listdir(self.path))

def load(path, greeting="Hello", mark="!"):
    Path(path).with_name("tries").open("a").write("x")
    if Path(path, "fail").exists():
        raise ValueError("it fails")
    return Greeter(path, greeting, mark)
"""
LOUD = """
def loud(spec, *, times=1):
    model = spec.load()
    model.greeting = model.greeting.upper() * times
    return model
"""
SETTINGS = b"options: {greeting: Welcome, mark: '?'}\n"
FILES = {"model.py": CODE, "model.yaml": SETTINGS}


@pytest.fixture
def models(rig):
    return rig.path


@pytest.fixture
def client(models):
    with running(models) as host:
        yield host.client()


def running(models, **more):
    settings = {**PLACES, "load_on_start": False, "lazy_load_retries": 0, **more, "dir": models}
    return hostd.Host(models=settings, initializers={"loud": {"type": "loud:loud"}}, workers={"drain_timeout_s": 1})


def loaded(host, how):
    """Return the model that a restarted host loads in some way."""
    client = host.client()
    if how == "sync":
        client.sync_local_models(wait=True)
    elif how == "load":
        client.load_model("m", f"{client.host_info().models_dir}/m")
    return client.retrieve_model("m")


HOWS = {
    "load on start": {"load_on_start": True},
    "lazy load": {"lazy_load": True},
    "sync": {},
    "load": {},
}


def test_a_restart_keeps_all_that_a_model_was_deployed_with(models, install):
    install(loud=LOUD)
    with running(models) as host:
        client = host.client()
        options = {"greeting": "Yo", "deep": [1, {"a": None}]}
        refused = refusal(lambda: client.deploy_model("m", FILES, options=options))
        assert "deep" in str(refused)  # the loader knows no such option: they do reach it
        model = client.deploy_model(
            "m", FILES, "talker", initializer="loud", finder="model_yaml", options={"greeting": "Yo"}, retries=2
        )
        assert model.greet("Ada") == "YO, Ada?"
        client.pin_model("m")
        await_tidy(models)
    for how, settings in HOWS.items():
        with running(models, **settings) as host:
            model = loaded(host, how)
            assert (model.greet("Ada"), model.info.type, model.info.pinned) == ("YO, Ada?", "talker", True), how
    (models / "m" / "fail").touch()
    (models / "tries").unlink()
    with running(models) as host:
        client = host.client()
        assert "it fails" in client.sync_local_models(wait=True).failed["m"]
        assert (models / "tries").read_text() == "xxx", "the retries are kept, too"
        (models / "m" / "fail").unlink()
        client.load_model("m", models / "m")
        again = client.load_model("m", models / "m")
        assert again.already_loaded  # the path alone means it as it was deployed
        with pytest.raises(hostd.AlreadyExistsError, match="options"):
            client.load_model("m", models / "m", options={"greeting": "Hi"})
        client.unload_model("m")
        # What a load says counts more than the deploy, and that more than the model's settings.
        model = client.load_model("m", models / "m", "other", options={"mark": "."})
        assert (model.greet("Ada"), model.info.type) == ("YO, Ada.", "other")


def test_a_replacement_is_what_it_is_deployed_with_and_keeps_the_pin(models):
    with running(models) as host:
        client = host.client()
        client.deploy_model("m", FILES, "talker", options={"greeting": "Yo"})
        client.pin_model("m")
        client.deploy_model("m", FILES, options={"mark": "."}, replace=True)
        await_tidy(models)
        client.unload_model("m")
        model = client.deploy_model("m", FILES, options={"mark": ";"}, replace=True)
        assert model.info.pinned  # of which nothing knows but the files
        refusal(lambda: client.deploy_model("m", {**FILES, "fail": b""}, options={"greeting": "Hi"}, replace=True))
        await_tidy(models)
    with running(models, lazy_load=True) as host:
        model = host.client().retrieve_model("m")
        assert model.greet("Ada") == "Welcome, Ada;"
        assert (model.info.type, model.info.pinned) == ("standalone-model", True)
        assert not host.client().unpin_model("m").pinned
    with running(models, lazy_load=True) as host:
        assert not host.client().retrieve_model("m").info.pinned


UNKEPT = [(1, 2), b"bytes", {"deep": [b"x"]}, "x" * 70_000]


def test_what_cannot_be_kept_is_refused_before_anything_is_sent_and_a_pin_holds_until_then(client, models):
    for option in UNKEPT:
        error = refusal(lambda: client.deploy_model("m", FILES, options={"greeting": option}))  # noqa: B023
        assert isinstance(error, hostd.InvalidArgumentError)
        assert "beside the model's files" in error.message
    for name in (KEPT_NAME, ".HOSTD-deploy.json", f"{KEPT_NAME}/x", f"{KEPT_NAME}.new"):
        error = refusal(lambda: client.deploy_model("m", {**FILES, name: b"{}"}))  # noqa: B023
        assert isinstance(error, hostd.InvalidArgumentError)
        assert KEPT_NAME in error.message
    assert list(models.iterdir()) == []
    client.deploy_model("m", FILES)
    (models / "m" / KEPT_NAME).unlink()
    error = refusal(lambda: client.pin_model("m"))
    assert isinstance(error, hostd.FailedPreconditionError)
    assert "only until it is loaded the next time" in error.message
    assert client.get_model("m").pinned
    assert states(client) == {"m": "READY"}


def test_an_evicted_deploy_comes_back_as_it_was(models):
    with hostd.Host(models={**PLACES, "dir": models}, memory={"idle_ttl_s": 0.1, "min_residence_s": 0}) as host:
        client = host.client()
        model = client.deploy_model("m", FILES, "talker", options={"greeting": "Yo"})
        eventually(lambda: not client.list_models(), "it is evicted")
        assert model.greet("Ada") == "Yo, Ada?"
        assert model.info.type == "talker"


def test_a_damaged_file_is_an_error_of_its_model_alone(client, models):
    for name in ("good", "bad", "old"):
        client.deploy_model(name, FILES, options={"greeting": "Yo"})
    client.unload_all_models()
    await_tidy(models)
    (models / "bad" / KEPT_NAME).write_text('{"version": 1, "optoins": {}}')
    (models / "old" / KEPT_NAME).unlink()
    report = client.sync_local_models(wait=True)
    assert set(report.loaded) == {"good", "old"}
    assert "optoins" in report.failed["bad"]
    assert "hostd deploy --replace" in report.failed["bad"]
    assert client.retrieve_model("good").greet("Ada") == "Yo, Ada?"
    assert client.retrieve_model("old").greet("Ada") == "Welcome, Ada?"
    (models / "bad" / KEPT_NAME).write_text(json.dumps({"version": 1, "options": {"mark": "."}}))
    client.sync_local_models(wait=True)
    assert client.retrieve_model("bad").greet("Ada") == "Welcome, Ada."
