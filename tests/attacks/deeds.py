"""What another client does before an attack and while it is under way: each must succeed, and in about the same time."""

import urllib.request
from pathlib import Path

import hostd
from attacks.attack import CONNECT_S, PATIENCE_S
from attacks.models import SOURCE

ECHO = "echo"
"""The directory, below the target's scratch, of a small model."""


def connect(target, client, number):
    """Come as a new client, and ask."""
    del client, number
    with hostd.connect(target.endpoint, timeout_s=PATIENCE_S, connect_timeout_s=CONNECT_S) as newcomer:
        newcomer.host_info()


def load(target, client, number):
    """Load a small model: its worker has to connect, and unload it."""
    model_id = f"small-{number}"
    model = client.load_model(model_id, Path(target.scratch, ECHO), timeout_s=PATIENCE_S)
    model.options(timeout_s=PATIENCE_S).echo(1)
    client.unload_model(model_id, timeout_s=PATIENCE_S)


def load_and_connect(target, client, number):
    """Both of these."""
    load(target, client, number)
    connect(target, client, number)


def retrieve(target, client, number):
    """Begin a load, and wait for it by retrieving the model."""
    model_id = f"small-{number}"
    client.load_model(model_id, Path(target.scratch, ECHO), wait=False, timeout_s=PATIENCE_S)
    client.retrieve_model(model_id, timeout_s=PATIENCE_S)
    client.unload_model(model_id, timeout_s=PATIENCE_S)


def deploy(target, client, number):
    """Deploy a small model, and undeploy it."""
    del target
    model_id = f"deployed-{number}"
    client.deploy_model(model_id, {"model.py": SOURCE.encode()}, timeout_s=PATIENCE_S)
    client.undeploy_model(model_id, timeout_s=PATIENCE_S)


def scrape(target, client, number):
    """Scrape the metrics."""
    del client, number
    with urllib.request.urlopen(f"http://127.0.0.1:{target.metrics_port}/metrics", timeout=PATIENCE_S) as answer:
        if b"hostd_" not in answer.read():
            raise ConnectionError("a page without metrics")


def load_and_scrape(target, client, number):
    """Load a small model, and scrape."""
    load(target, client, number)
    scrape(target, client, number)
