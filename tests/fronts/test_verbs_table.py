"""The table of the verbs: every route answers, and says of itself what it does."""

import asyncio
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import jsonschema
import pytest
from front_rig import serving, verbs_of
from helpers import PATIENCE_S
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount

import hostd
from hostd.fronts.verbs import verbs_app
from hostd.fronts.verbs.routes import ROUTES

FILES = (
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="model.py"\r\n\r\n'
    b"class M:\r\n    def predict(self, x):\r\n        return x\r\ndef load(path):\r\n    return M()\r\n--b--\r\n"
)
FORM = {"Content-Type": "multipart/form-data; boundary=b"}

EXAMPLES = {
    "get_model": ("/v1/models/m",),
    "load_model": ("/v1/models/m/load", {"path": "ECHO"}),
    "unload_model": ("/v1/models/m/unload", {"now": True}),
    "pin_model": ("/v1/models/m/pin", {}),
    "unpin_model": ("/v1/models/m/unpin",),
    "explain_model": ("/v1/models/m/explain",),
    "plan_load": ("/v1/models/new/plan", {"path": "ECHO"}),
    "estimate_model_size": ("/v1/models/new/estimate", {"path": "ECHO"}),
    "get_model_size": ("/v1/models/m/size",),
    "model_logs": ("/v1/models/m/logs",),
    "model_examples": ("/v1/models/m/examples",),
    "model_stacks": ("/v1/models/m/stacks",),
    "deploy_model": ("/v1/models/d/files?replace=true", FILES, FORM),
    "undeploy_model": ("/v1/models/d/files",),
    "call_method": ("/v1/models/m/call/predict", {"args": [1]}),
    "call_model": ("/v1/models/m/call", {"args": [1]}),
}
"""How routes are asked that need more than their path."""


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    places = {"dir": models, "write_quiet_period_s": 0, "poll_period_s": 0}
    with hostd.Host(models=places) as host, verbs_of(host) as front:
        yield front


@pytest.fixture(scope="module")
def document(front):
    return front.ask("GET", "/v1/openapi.json").value


def ask(front, route, echo, method=None):
    path, *rest = EXAMPLES.get(route.name, (route.path,))
    body, headers = [*rest, None, None][:2]
    if isinstance(body, dict):
        body = {name: echo if value == "ECHO" else value for name, value in body.items()}
    return front.ask(method or route.method, path, body, headers)


@pytest.fixture
def echo(front, model_dir):
    """A model that is loaded, and one that is deployed."""
    path = model_dir()
    front.load("m", path, reload=True)
    assert front.ask("PUT", "/v1/models/d/files?replace=true", FILES, FORM).status == 200
    return path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_answers_as_the_document_says(route, front, echo, document):
    operation = document["paths"][route.path][route.method.lower()]
    assert operation["operationId"] == route.name
    assert f"`{route.role.name.lower()}`" in operation["description"]
    if route.name == "events":
        with front.following("GET", route.path) as events:
            assert next(events).comment == "following"
        return
    if route.name == "watch":
        with front.following("GET", route.path) as events:
            assert next(events).name == "snapshot"
        return
    answer = ask(front, route, echo)
    kind = answer.headers["content-type"].partition(";")[0]
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
    if route.name == "reload_config":  # an embedded host has no file; one that has is below
        assert (answer.status, answer.kind) == (409, "FailedPreconditionError")
        schema = operation["responses"]["default"]["content"][kind]["schema"]
    else:
        assert answer.status == 200, answer
        schema = operation["responses"]["200"]["content"][kind]["schema"]
    value = answer.value if kind == "application/json" else answer.body.decode()
    jsonschema.validate(value, {**schema, "components": document["components"]})


def test_the_document_is_valid_and_has_the_table_and_nothing_else(document):
    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}


def test_the_document_has_every_parameter_with_its_default_and_text(document):
    load = document["paths"]["/v1/models/{id}/load"]["post"]
    properties = load["requestBody"]["content"]["application/json"]["schema"]["properties"]
    (route,) = [route for route in ROUTES if route.name == "load_model"]
    assert {name: about["description"] for name, about in properties.items()} == {
        parameter.name: parameter.text for parameter in route.parameters
    }
    assert properties["wait"] == {**properties["wait"], "type": "boolean", "default": True}
    (tail, follow) = document["paths"]["/v1/models/{id}/logs"]["get"]["parameters"][1:]
    assert (tail["in"], tail["schema"]) == ("query", {"type": ["integer", "null"], "minimum": 0, "default": None})
    assert (follow["name"], follow["schema"]) == ("follow", {"type": "boolean", "default": False})


def test_no_two_routes_share_a_method_and_a_shape():
    shapes = [(route.method, re.sub(r"{\w+}", "{}", route.path)) for route in ROUTES]
    assert len(set(shapes)) == len(shapes)
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_the_page_for_people_has_all_routes_and_needs_nothing_else(front):
    page = front.ask("GET", "/v1/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = unescape(page.body.decode())
    for route in ROUTES:
        assert f"<code>{route.path}</code> {route.summary}" in text
        assert all(parameter.text in text for parameter in route.parameters)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", text)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/m", "GET, HEAD"),
        ("HEAD", "/v1/models/m/load", "POST"),
        ("GET", "/v1/models/m/files", "DELETE, PUT"),
        ("PATCH", "/v1/models/unload", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/host", "GET, HEAD"),
        ("PROPFIND", "/v1/host", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(front, method, path, allowed):
    answer = front.ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["cache-control"] == "no-store"
    if method != "HEAD":
        assert answer.kind == "MethodNotAllowedError"
        assert answer.value["details"] == {"allow": allowed.split(", ")}


@pytest.mark.parametrize("path", ["/v1/host", "/v1/events", "/v1/docs"])
def test_head_has_the_headers_of_get_and_no_body(front, path):
    answer = front.ask("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/models/", "/v1/models/a/b", "/v1/models//size", "/v2/models", "/v1/Models"]
)
def test_a_path_that_is_not_there_says_where_they_are_listed(front, path):
    answer = front.ask("GET", path)
    assert (answer.status, answer.kind) == (404, "NoSuchRouteError")
    assert "/v1/docs" in answer.value["error"]


def test_a_reload_of_the_configuration_says_what_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", f"{os.environ['XDG_RUNTIME_DIR']}/front")  # a socket's path is short
    file = tmp_path / "hostd.yaml"
    file.write_text("workers: {load_retries: 1}")
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", "--config", file], stderr=subprocess.DEVNULL
    ) as host:
        try:
            with hostd.connect(wait_s=PATIENCE_S) as client, verbs_of(client) as front:
                file.write_text("workers: {load_retries: 2}")
                answer = front.ask("POST", "/v1/host/reload-config")
        finally:
            host.terminate()
    assert answer.status == 200, answer
    assert (answer.value["file"], answer.value["needs_restart"]) == (str(file), [])
    assert list(answer.value["changed"]) == ["workers.load_retries"]


def test_the_application_may_be_mounted_below_a_prefix(shared_host, model_dir):
    app = Starlette(routes=[Mount("/hosts/a b", app=verbs_app(hostd.AsyncClient(shared_host.endpoint)))])
    with serving(app) as front:
        path = "/hosts/a%20b/v1"
        assert front.ask("POST", f"{path}/models/team%2Fm/load", {"path": model_dir()}).status == 200
        assert front.ask("GET", f"{path}/models/team%2Fm").value["id"] == "team/m"
        assert front.ask("GET", f"{path}/openapi.json").value["servers"] == [{"url": "/hosts/a%20b"}]
        assert front.ask("GET", "/v1/host").status == 404
        assert front.ask("POST", f"{path}/models/unload").status == 200


def test_a_time_that_is_no_time_is_refused_and_one_that_never_ends_is_taken(front, echo):
    for timeout_s in (1e12, 1e300):
        answer = front.ask("POST", "/v1/models/m/load", {"path": echo, "timeout_s": timeout_s})
        assert answer.status == 200, answer
    for text in ("nan", "inf", "1e999", "-1", "x"):
        assert front.ask("POST", f"/v1/models/m/call?timeout_s={text}", {"args": [1]}).status == 400


@pytest.mark.parametrize(("path", "status"), [("/v1/docs", 200), ("/v1/docs/", 404), ("/v1/models/50%", 503)])
def test_a_server_that_tells_a_path_only_as_it_was_decoded_is_understood(path, status, tmp_path):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return await asyncio.Event().wait()

    app = verbs_app(hostd.AsyncClient(f"ipc://{tmp_path}/nobody", connect_timeout_s=0.1))
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status


def test_the_roles_divide_those_of_the_host():
    """The host's table is read as text: it is made of what only a supervisor has."""
    source = Path(hostd.__file__).parent.joinpath("shell", "control", "requests.py").read_text()
    of_host = dict(re.findall(r'"(\w+)": Verb\(\s*Role\.(\w+)', source))
    divided = {"USE": {"read", "call"}, "MANAGE": {"load", "deploy"}, "ADMINISTER": {"admin"}}
    compared = {route.name: route.role.name.lower() for route in ROUTES if route.name in of_host}
    assert len(compared) >= 15
    stricter = {"plan_load", "estimate_model_size"}  # they look at files of the host's user, who need not be the caller
    assert {name for name, role in compared.items() if role not in divided[of_host[name]]} == stricter
    assert {compared[name] for name in stricter} == {"load"}
