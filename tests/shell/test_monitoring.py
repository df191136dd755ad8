"""The dashboard and the alert rules beside the documents: they ask for what a host has, in words that Prometheus takes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import hostd

MONITORING = Path(hostd.__file__).parent / "docs" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yml").read_text())
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that are on a page of a host that has a budget and a model."""
    path = tmp_path_factory.mktemp("m")
    (path / "model.py").write_text("def load(path):\n    return len\n")
    with hostd.Host(memory={"budget": "1GiB"}, metrics={"port": 0}) as host:
        client = host.client()
        client.load_model("m", path)("abc")
        _, page = client.metrics_page()
    return set(re.findall(rb"^(\w+)[{ ]", page, re.MULTILINE))


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *TARGETS])
def test_what_is_asked_for_is_on_the_page(expression, names):
    asked = re.findall(r"\b(?:hostd|total)_\w+", expression)
    assert asked or "up{" in expression
    assert [name for name in asked if name.encode() not in names] == []


def test_every_alert_says_what_to_do():
    assert all(set(rule["annotations"]) == {"summary", "description"} for rule in RULES)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_panels_have_places_of_their_own():
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_prometheus_takes_the_rules_and_the_expressions(tmp_path):
    subprocess.run(["promtool", "check", "rules", MONITORING / "alerts.yml"], check=True, timeout=60)
    rules = [
        {
            "record": f"panel{n}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$model", ".*"),
        }
        for n, expression in enumerate(TARGETS)
    ]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "panels.yml"], check=True, timeout=60)
