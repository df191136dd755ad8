"""What a front's clients may take together: connections, descriptors, bodies, places; and what each answer has."""

import gzip
import json
import resource
import select
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from front_process_rig import (
    HELD,
    connections,
    front_of,
    go_on,
    has_calls,
    kill_front,
    shared_by,
    starting,
    status_of,
    two_tokens,
    url_of,
)
from helpers import PATIENCE_S, eventually


@pytest.fixture
def fronted():
    """Start hosts with an HTTP front."""
    with starting(http=0) as start:
        yield start


def test_idle_connections_and_slow_ones_hold_nobody_up(fronted):
    url = url_of(fronted())
    with connections(url, 300), connections(url, 50) as slow:
        for one in slow:
            one.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        assert [status_of(url) for _ in range(20)] == [200] * 20


def test_a_head_that_is_too_long_is_refused(fronted):
    url = url_of(fronted())
    with connections(url, 1) as (one,):
        one.settimeout(PATIENCE_S)
        one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with pytest.raises(OSError):  # noqa: PT011 - a broken pipe or a reset
            while True:
                one.sendall(b"X-Filler: " + b"x" * 8000 + b"\r\n")
    assert status_of(url) == 200


@pytest.mark.parametrize(
    ("path", "encoding"),
    [("/v2/models/m/infer", "identity"), ("/v2/models/m/infer", "gzip"), ("/v1/models/m/call", "identity")],
)
def test_bodies_that_are_over_what_a_front_may_hold_are_refused_until_others_are_answered(
    fronted, model_dir, path, encoding
):
    host, directory = fronted(max_body_bytes=2**20, max_bodies_bytes=2 * 2**20), model_dir(HELD)
    url = url_of(host)
    host.client().load_model("m", directory)
    text = "x" * 900_000
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "data": [text]}
    body = json.dumps({"inputs": [tensor]} if "infer" in path else {"args": [text]}).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    request = urllib.request.Request(url + path, gzip.compress(body) if encoding == "gzip" else body, headers)

    def ask(_=None):
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status

    with ThreadPoolExecutor() as pool:
        answers = pool.map(ask, range(2))
        has_calls(host, 2)
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask()
        with caught.value as refused:
            assert (refused.code, refused.headers["Retry-After"]) == (503, "1")
            told = json.load(refused)
        assert (told["status"], told["kind"]) == ("RESOURCE_EXHAUSTED", "FrontFullError")
        assert "fronts.max_bodies_bytes" in told["error"]
        assert status_of(url, "/v1/models") == 200
        go_on(directory)
        assert list(answers) == [200, 200]
    assert ask() == 200


def test_bodies_that_never_end_count_as_far_as_they_have_come(fronted):
    url = url_of(fronted(max_body_bytes=2**20, max_bodies_bytes=2**20))
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    with connections(url, 8) as opened:
        for one in opened:
            one.settimeout(PATIENCE_S)
            one.sendall(head + bytes(500_000))
        refused = eventually(lambda: select.select(opened, [], [], 0)[0], "they are refused")
        assert refused[0].recv(4096).startswith(b"HTTP/1.1 503 ")
    assert status_of(url) == 200


@pytest.mark.parametrize(
    "path", ["/v2/models/m/infer", "/v2/models/m/generate", "/v1/models/m/call", "/v1/completions"]
)
def test_one_caller_does_not_take_all_places_of_a_model(fronted, model_dir, tmp_path, path):
    first, second = two_tokens(tmp_path / "tokens")
    host, directory = fronted(max_in_flight=24, tokens=str(tmp_path / "tokens")), model_dir(HELD)
    url = url_of(host)
    host.client().load_model("m", directory)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    body = {
        "infer": {"inputs": [tensor]},
        "generate": {"prompt": "x"},
        "call": {"args": [1]},
        "completions": {"model": "m", "prompt": "x"},
    }[path.rpartition("/")[2]]

    def ask(authorization):
        headers = {"authorization": authorization, "content_type": "application/json"}
        return status_of(url, path, json.dumps(body).encode(), **headers)

    with shared_by(ask, first, second, refused=429):
        go_on(directory)
    assert ask(first) == 200


def test_a_front_without_a_descriptor_left_takes_connections_again_when_others_close(fronted):
    host = fronted()
    url, pid = url_of(host), front_of(host)
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    few = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 20
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, hard))
    with connections(url, 60):
        eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) == few, "there is none left")

    def answers():
        with suppress(OSError):  # what has connected meanwhile is reset
            return status_of(url) == 200

    eventually(answers, "it answers")
    assert front_of(host) == pid


def test_a_front_may_have_as_many_connections_as_the_system_lets_it(fronted):
    host = fronted()
    hard = resource.prlimit(host.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (hard - 1, hard))  # of which the next front is a child
    kill_front(host)
    assert status_of(url_of(host)) == 200
    assert resource.prlimit(front_of(host), resource.RLIMIT_NOFILE) == (hard, hard)


def test_every_answer_says_to_browsers_that_it_is_no_page(fronted):
    url = url_of(fronted())
    foreign = {"Origin": "https://evil.example"}
    for path, headers in (("/v2", {}), ("/v2/nothing", {}), ("/v1/models", {}), ("/v2", foreign)):
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'none'"], path
            assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"], path
    with urllib.request.urlopen(url + "/", timeout=PATIENCE_S) as page:
        assert "script-src 'self'" in page.headers["Content-Security-Policy"], "a page has its own"


def test_what_is_asked_for_with_get_answers_head_without_a_body(fronted):
    url = url_of(fronted())
    for path in ("/v2", "/v2/models/stats"):
        with urllib.request.urlopen(url + path, timeout=PATIENCE_S) as whole:
            body = whole.read()
        request = urllib.request.Request(url + path, method="HEAD")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert (answer.status, answer.read()) == (200, b"")
            assert int(answer.headers["Content-Length"]) == len(body)
