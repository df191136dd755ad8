"""Models over HTTP: loads and unloads, what is refused and how, ids of all kinds, msgpack."""

import json
from urllib.parse import quote

import msgpack
import pytest
from front_rig import JSON, MSGPACK, verbs_of
from helpers import descendants, eventually, is_there

import hostd

ODD_IDS = ["team/model", "größe", "模型", "a b", "50%", "a+b", "a?b#c", "unload", "%2F"]


@pytest.fixture(scope="module")
def front(shared_host):
    with verbs_of(shared_host) as front:
        yield front


@pytest.fixture(autouse=True)
def _nothing_stays_loaded(front):
    yield
    assert front.ask("POST", "/v1/models/unload").status == 200


@pytest.fixture
def echo(model_dir):
    return model_dir()


def said(client, model_id, path):
    """Return what a client gets that loads without HTTP."""
    try:
        return 200, client.load_model(model_id, path).id
    except hostd.InvalidArgumentError as refused:
        return 400, refused.message


def test_a_model_comes_and_goes_and_its_process_with_it(front, echo):
    loaded = front.load("m", echo, options={}, retries=0, timeout_s=60)
    assert (loaded["id"], loaded["state"], loaded["path"]) == ("m", "READY", echo)
    assert not loaded["already_loaded"]
    assert front.load("m", echo)["already_loaded"]
    (worker,) = loaded["workers"]
    assert worker["pid"] in descendants()
    assert [model["id"] for model in front.ask("GET", "/v1/models").value["data"]] == ["m"]
    report = front.ask("POST", "/v1/models/m/unload").value
    assert (report["model_id"], report["processes"]) == ("m", 1)
    assert not is_there(worker["pid"])
    assert front.ask("GET", "/v1/models/m").status == 404


def test_a_load_names_its_loader(front, echo):
    assert front.load("m", echo, loader="python")["loader"] == "python"
    refused = front.ask("POST", "/v1/models/other/load", {"path": echo, "loader": "pyhton"})
    assert (refused.status, refused.kind) == (400, "InvalidArgumentError")
    assert "there is no loader 'pyhton'" in refused.value["error"]


def test_a_load_that_is_not_waited_for_is_answered_while_it_loads(front, model_dir, tmp_path):
    gate = tmp_path / "gate"
    path = model_dir(
        f"""
        import os, time
        def load(path):
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.002)
            return len
        """
    )
    assert front.load("m", path, wait=False)["state"] == "LOADING"
    gate.touch()
    eventually(lambda: front.ask("GET", "/v1/models/m").value["state"] == "READY", "it is loaded")


def test_a_load_may_end_with_the_client_that_waits_for_it(front, model_dir):
    path = model_dir("import time\ndef load(path):\n    time.sleep(3600)")
    with front.begun("POST", "/v1/models/m/load", {"path": path, "cancel_on_timeout": True}):
        eventually(lambda: front.ask("GET", "/v1/models/m").status == 200, "it is being loaded")
    eventually(lambda: front.ask("GET", "/v1/models/m").status == 404, "the load has ended")
    answer = front.ask("POST", "/v1/models/m/load", {"path": path, "cancel_on_timeout": True, "timeout_s": 1})
    assert answer.status == 504
    eventually(lambda: front.ask("GET", "/v1/models/m").status == 404, "the load has ended")


def test_a_model_is_pinned_and_unpinned(front, echo):
    front.load("m", echo)
    assert front.ask("POST", "/v1/models/m/pin").value["pinned"] is True
    assert front.ask("POST", "/v1/models/m/unpin").value["pinned"] is False


def test_models_are_listed_and_unloaded_by_labels(front, echo):
    assert front.load("a", echo, labels={"team": "a"})["labels"] == {"team": "a"}
    front.load("b", echo)
    listed = front.ask("GET", "/v1/models?labels=%7B%22team%22:%22a%22%7D").value["data"]
    assert [model["id"] for model in listed] == ["a"]
    assert front.ask("POST", "/v1/models/unload", {"labels": {}}).status == 400
    (report,) = front.ask("POST", "/v1/models/unload", {"labels": {"team": "a"}}).value
    assert report["model_id"] == "a"
    assert [model["id"] for model in front.ask("GET", "/v1/models").value["data"]] == ["b"]


@pytest.mark.parametrize("model_id", ODD_IDS)
def test_an_id_is_what_its_segment_says_when_it_is_decoded_once(front, echo, shared, model_id):
    answer = front.ask("POST", f"/v1/models/{quote(model_id, safe='')}/load", {"path": echo})
    assert (answer.status, answer.value.get("id") or answer.value["error"]) == said(shared, model_id, echo)
    if answer.status == 200:
        assert front.ask("GET", f"/v1/models/{quote(model_id, safe='')}/size").value["bytes"] > 0


def test_most_odd_ids_can_be_loaded(front, echo, shared):
    """Without this, all of the test before could be refusals."""
    for model_id in ("team/model", "größe", "模型", "unload"):
        assert front.load(model_id, echo)["id"] == model_id
    assert {model.id for model in shared.list_models()} >= {"team/model", "größe", "模型", "unload"}


def test_a_slash_that_is_not_encoded_is_no_part_of_an_id(front, echo):
    front.load("team/model", echo)
    assert front.ask("GET", "/v1/models/team/model").status == 404
    assert "%2F" in front.ask("GET", "/v1/models/team/model").value["error"]
    assert front.ask("GET", "/v1/models/team%2fmodel").value["id"] == "team/model"


@pytest.mark.parametrize("segment", ["50%", "%zz", "%C3", "%ff%fe"])
def test_a_segment_that_cannot_be_decoded_is_refused(front, segment):
    answer = front.ask("GET", f"/v1/models/{segment}")
    assert answer.status == 400
    assert answer.value["details"] == {
        "parameter": "id",
        "place": "path",
        "got": segment,
        "expected": "UTF-8, percent-encoded",
    }


@pytest.mark.parametrize("segment", ["%00", "..", "%2e%2e%2fetc", "%2Fetc%2Fpasswd", "a%0d%0aSet-Cookie:%20x"])
def test_an_id_that_would_do_harm_is_refused_by_the_host(front, echo, segment):
    answer = front.ask("POST", f"/v1/models/{segment}/load", {"path": echo})
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError")
    assert "set-cookie" not in answer.headers


WRONG = [
    ("load", {"pth": "/x"}, "'pth'", "path"),
    ("load", {"wait": "yes"}, "'yes'", "true or false"),
    ("load", {"wait": 1}, "1", "true or false"),
    ("load", {"retries": -1}, "-1", "a whole number, at least 0"),
    ("load", {"retries": 1.5}, "1.5", "a whole number, at least 0"),
    ("load", {"retries": True}, "True", "a whole number, at least 0"),
    ("load", {"labels": "team=a"}, "'team=a'", "a map"),
    ("load", {"timeout_s": "1"}, "'1'", "a number, at least 0"),
    ("load", {"options": []}, "[]", "a map"),
    ("load", {"path": "models/x"}, "'models/x'", "an absolute path on the host's machine"),
    ("load", {"path": "~/x"}, "'~/x'", "an absolute path on the host's machine"),
    ("unload", {"nowt": True}, "'nowt'", "now"),
    ("pin", {"pinned": True}, "'pinned'", []),
]


@pytest.mark.parametrize(("verb", "body", "got", "expected"), WRONG, ids=[str(body) for _, body, _, _ in WRONG])
def test_an_argument_that_is_wrong_is_named_with_what_was_got_and_expected(front, verb, body, got, expected):
    answer = front.ask("POST", f"/v1/models/m/{verb}", body)
    assert (answer.status, answer.kind, answer.value["status"]) == (400, "InvalidArgumentError", "INVALID_ARGUMENT")
    details = answer.value["details"]
    assert (details["place"], details["got"], details["expected"]) == ("body", got, expected)
    assert details["parameter"] in (next(iter(body)), got)


@pytest.mark.parametrize(
    ("query", "got", "expected"),
    [
        ("all=maybe", "'maybe'", "true or false"),
        ("al=true", "'al'", "all"),
        ("all=true&all=false", "True and 'false'", "one value"),
    ],
)
def test_a_query_that_is_wrong_is_refused_alike(front, query, got, expected):
    answer = front.ask("GET", f"/v1/models?{query}")
    assert answer.status == 400
    assert (answer.value["details"]["got"], answer.value["details"]["expected"]) == (got, expected)


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", JSON, 400, "InvalidArgumentError"),
        (b"\xc1", MSGPACK, 400, "InvalidArgumentError"),
        (b"\xd4\x05\x00", MSGPACK, 400, "InvalidArgumentError"),
        (b"[1]", JSON, 400, "InvalidArgumentError"),
        (b"[" * 100_000, JSON, 400, "InvalidArgumentError"),
        (b"\x91" * 100_000, MSGPACK, 400, "InvalidArgumentError"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "UnsupportedMediaTypeError"),
        (b"now=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "UnsupportedMediaTypeError"),
        (b"{}", {}, 415, "UnsupportedMediaTypeError"),
        (json.dumps({"path": "x" * 2**20}).encode(), JSON, 413, "MessageTooLargeError"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(front, body, headers, status, kind):
    answer = front.ask("POST", "/v1/models/m/load", body, headers)
    assert (answer.status, answer.kind) == (status, kind)


def test_a_body_without_a_length_is_bounded_as_it_comes(front):
    pieces = (b" " * 65536 for _ in range(17))
    answer = front.ask("POST", "/v1/models/m/load", pieces, JSON)
    assert (answer.status, answer.kind) == (413, "MessageTooLargeError")


def test_what_the_host_refuses_keeps_its_class_status_and_details(front, echo, model_dir):
    missing = front.ask("POST", "/v1/models/m/load", {"path": "/nowhere/at/all"})
    assert (missing.status, missing.kind) == (404, "NotFoundError")
    front.load("m", echo)
    taken = front.ask("POST", "/v1/models/m/load", {"path": model_dir()})
    assert (taken.status, taken.kind, taken.value["status"]) == (409, "AlreadyExistsError", "ALREADY_EXISTS")
    broken = model_dir("raise RuntimeError('not today')")
    failed = front.ask("POST", "/v1/models/b/load", {"path": broken, "retries": 0})
    assert (failed.status, failed.kind) == (500, "ModelError")
    assert "not today" in failed.value["details"]["traceback"]


def test_msgpack_goes_in_and_comes_out(front, echo):
    body = msgpack.packb({"path": echo})
    loaded = front.ask("POST", "/v1/models/m/load", body, MSGPACK)
    assert (loaded.status, loaded.headers["content-type"]) == (200, "application/msgpack")
    as_json = front.ask("GET", "/v1/models/m").value
    assert loaded.value.keys() == as_json.keys() - {"object", "created", "owned_by"}
    assert (loaded.value["id"], loaded.value["workers"][0]["pid"]) == ("m", as_json["workers"][0]["pid"])
    refused = front.ask("POST", "/v1/models/m/load", msgpack.packb({"pth": echo}), MSGPACK)
    assert (refused.status, refused.value["details"]["expected"]) == (400, "path")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("application/msgpack, */*", "application/msgpack"),
        ("application/x-msgpack", "application/msgpack"),
        ("application/json, application/msgpack;q=0.5", "application/json"),
        ("application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("application/msgpack;q=0", "application/json"),
        ("application/msgpack;q=much", "application/json"),
    ],
)
def test_the_form_of_an_answer_is_the_one_that_is_preferred(front, accept, form):
    assert front.ask("GET", "/v1/host", headers={"Accept": accept}).headers["content-type"] == form


def test_a_host_that_is_gone_is_said_to_be_unavailable():
    with hostd.Host() as host, verbs_of(host, connect_timeout_s=0.1) as front:
        assert front.ask("GET", "/v1/host").status == 200
        host.stop()
        answer = front.ask("GET", "/v1/host")
    assert (answer.status, answer.kind) == (503, "UnavailableError")


def test_examples_say_how_each_method_may_be_called_and_null_where_nobody_knows(front, model_dir):
    front.load(
        "m",
        model_dir(
            """
            class Model:
                def hinted(self, x: list):
                    return x

                def by_name(self, text: str, times: int = 1):
                    return text * times

                def unknown(self, a, b):
                    return a

            def load(path):
                return Model()
            """
        ),
    )
    assert front.ask("GET", "/v1/models/m/examples").value == {
        "hinted": {"args": [[1, 2]], "kwargs": {}, "is_of_arrays": False},
        "by_name": {"args": [], "kwargs": {"text": "text"}, "is_of_arrays": False},
        "unknown": None,
    }
    assert front.ask("GET", "/v1/models/nix/examples").status == 404


def test_whoever_asks_is_told_the_role_that_they_have(front):
    assert front.ask("GET", "/v1/me").value == {"role": "admin"}
