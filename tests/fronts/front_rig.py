"""A front as a client sees it: the verbs' application behind uvicorn on loopback, asked with the standard library."""

import http.client
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import msgpack
import uvicorn
from helpers import PATIENCE_S

import hostd
from hostd.fronts.verbs import verbs_app

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}


class _Server(uvicorn.Server):
    """A server that says when it listens, or that it does not."""

    def __init__(self, config):
        super().__init__(config)
        self.is_decided = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.is_decided.set()

    def run(self, sockets=None):
        try:
            super().run(sockets)
        finally:
            self.is_decided.set()


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: dict
    body: bytes

    @property
    def value(self):
        read = msgpack.unpackb if self.headers["content-type"] == "application/msgpack" else json.loads
        return read(self.body)

    @property
    def kind(self):
        return self.value["kind"]


@dataclass(frozen=True)
class Event:
    """A server-sent event, or a comment."""

    name: str = ""
    data: object = None
    number: str = ""
    comment: str = ""


class Front:
    """The front at a port of loopback."""

    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, headers=None, **more):
        """Send a request and return the whole answer; a map is sent as JSON."""
        with self.begun(method, path, body, headers, **more) as connection:
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    @contextmanager
    def begun(self, method, path, body=None, headers=None):
        """Send a request over a connection of its own, which is closed after the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {**JSON, **(headers or {})}
        try:
            connection.request(method, path, body, headers or {})
            yield connection
        finally:
            connection.close()

    def load(self, model_id, path, **more):
        """Load a model, which must succeed; return its record."""
        answer = self.ask("POST", f"/v1/models/{quote(model_id, '')}/load", {"path": str(path), **more})
        assert answer.status == 200, answer
        return answer.value

    @contextmanager
    def following(self, method, path, body=None, headers=None):
        """Give the events of an answer, one by one, until the block ends."""
        with self.begun(method, path, body, headers) as connection:
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
            with answer:
                yield _events(answer)


def _events(answer):
    fields = {}
    while line := answer.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name or value:
            fields[name] = value
            continue
        data = json.loads(fields["data"]) if "data" in fields else None
        yield Event(fields.get("event", ""), data, fields.get("id", ""), fields.get("", ""))
        fields = {}


@contextmanager
def serving(app, **settings):
    """Serve an application in a thread with a loop of its own, and give the front."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="off", log_level="error", access_log=False, ws="none", **settings
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.is_decided.wait(PATIENCE_S)
        (listening,) = server.servers[0].sockets
        yield Front(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "what it served has no end"


@contextmanager
def verbs_of(host, *, connect_timeout_s=PATIENCE_S, **options):
    """Serve a host's verbs, and give the front."""
    client = hostd.AsyncClient(host.endpoint, connect_timeout_s=connect_timeout_s)
    with serving(verbs_app(client, **options)) as front:
        yield front


def form(files):
    """Return files as multipart/form-data with the boundary `bound`."""
    parts = [
        b'--bound\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%s\r\n" % (name.encode(), data)
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--bound--\r\n"


def archive(files, *, kind=tarfile.PAX_FORMAT, **attributes):
    """Return files as a tar archive; `attributes` are what else their headers say, by name."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=kind) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for attribute, value in attributes.get(name, {}).items():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return written.getvalue()
