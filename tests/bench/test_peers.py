"""Other servers: which are missing, and the client that calls them."""

import json
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.peers.http import HttpLane
from benchmarks.peers.rig import PeerError, find, serving
from benchmarks.peers.servers import PEERS, Start


@pytest.fixture(autouse=True)
def _unchanged(monkeypatch):
    """What the command does to its process is undone."""
    monkeypatch.setenv("HOSTD_MEMORY__REMEMBER", "host")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Handler(BaseHTTPRequestHandler):
    """Answers what it was asked, a piece at a time; `path` says what goes wrong."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503 if self.path == "/busy" else 200)
        self.send_header("content-length", str(len(asked)))
        self.end_headers()
        for at in range(len(asked)):
            self.wfile.write(asked[at : at + 1])
        self.close_connection = self.path == "/leave"

    def log_message(self, *args):
        pass


@contextmanager
def lane_to(path, ask):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        lane = HttpLane(server.server_address[1], path, ask, lambda document: document["x"])
        try:
            yield lane
        finally:
            lane.close()
            server.shutdown()
            thread.join()


def test_answers_come_in_the_order_of_the_requests():
    numbers = iter(range(10))
    with lane_to("/", lambda: {"x": next(numbers)}) as lane:
        for _ in range(4):
            lane.send()
        assert [lane.receive() for _ in range(4)] == [0, 1, 2, 3]
        assert lane.call() == 4


def test_what_is_no_answer_is_an_error_with_the_servers_words():
    with lane_to("/busy", lambda: {"x": "too much"}) as lane, pytest.raises(ConnectionError, match=r"503.*too much"):
        lane.call()


def test_connections_that_were_idle_are_not_used_again(monkeypatch):
    monkeypatch.setattr("benchmarks.peers.http.KEPT_S", -1.0)
    with lane_to("/leave", lambda: {"x": 1}) as lane:
        assert [lane.call() for _ in range(3)] == [1, 1, 1]


def test_a_peer_that_is_nowhere_is_not_found(tmp_path):
    assert find(replace(PEERS[0], package="no-such-distribution"), tmp_path, tmp_path) is None


def test_a_server_that_ends_is_told_of_with_its_last_error(tmp_path):
    pytest.importorskip("sklearn")
    place = find(replace(PEERS[0], package="hostd"), None, tmp_path)
    command = [place.python, "-c", "print('ValueError: out of order'); print('goodbye')"]
    peer = replace(PEERS[0], start=lambda _: Start(command, {}))
    with pytest.raises(PeerError, match="out of order"), serving(peer, place, [1]):
        pass


def test_every_peer_says_how_to_get_it():
    for peer in PEERS:
        how = peer.how_to_get(Path("/envs"))
        assert how.startswith(f"python3 -m venv /envs/{peer.folder} && /envs/{peer.folder}/bin/pip install ")
        assert peer.package in how


def test_the_command_names_missing_peers_and_measures_what_there_is(tmp_path):
    pytest.importorskip("sklearn")
    told = tmp_path / "told.json"
    done = CliRunner().invoke(main, ["peers", "--quick", "--peers", str(tmp_path), "--json", str(told)])
    assert done.exit_code == 0, done.output
    first = json.loads(told.read_text())["comparisons"][0]
    for peer in PEERS:
        assert any(note.startswith(f"{peer.folder} is missing: python3 -m venv") for note in first["notes"])
    assert "hostd" in {figure["name"] for figure in first["figures"]}


def test_a_table_that_a_command_has_not_is_refused():
    for command, told in (("latency", "it has: echo, busy"), ("idle", "only latency and throughput")):
        done = CliRunner().invoke(main, [command, "--table", "nonsense"])
        assert done.exit_code == 2
        assert told in done.output
