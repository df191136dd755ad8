"""What the tests of deploys share: models that are told by a file what to do, looks at a models directory, raw requests.

Nothing here asks the host about the directory: what is there is read from the disk.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import zmq
from helpers import PATIENCE_S, REPOSITORY, eventually

import hostd
from hostd.core.names import KEPT_NAME
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

sys.path += [str(REPOSITORY), str(REPOSITORY / "tests" / "shell")]  # benchmarks, and the corpus of paths

MIB = 2**20
STAGING = ".hostd-staging"
PLACES = {"write_quiet_period_s": 0, "poll_period_s": 0}
"""Settings of `models`: the directory is looked at when somebody asks for it, and what is there is whole."""

CODE = b"""
import os, signal, time
from pathlib import Path

BALLAST = []

def until(gate):
    while not Path(gate).exists():
        time.sleep(0.002)

class Model:
    def __init__(self, path, text):
        self.path, self.text = Path(path), text

    def predict(self, x=None):
        return self.text

    def linger(self, marker, gate):
        Path(marker).touch()
        until(gate)
        return self.text

    def reads(self):
        return (self.path / "text").read_text()

    def pid(self):
        return os.getpid()

def load(path, text=None):
    text = text or Path(path, "text").read_text()
    act, _, argument = text.partition(" ")
    if act == "bad":
        raise ValueError("this model is bad")
    if act == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "gated":
        Path(argument + ".reached").touch()
        until(argument)
    if act == "big":
        BALLAST.append(b"x" * int(argument))
    return Model(path, text)
"""


def files_of(text, **more):
    """Return the files of a model that says `text`, which may tell it what to do: `bad`, `dies`, `gated FILE`, `big N`."""
    return {"model.py": CODE, "text": text.encode(), **more}


def put(models, model_id, text):
    """Put a model into a directory by hand."""
    place = models / model_id
    place.mkdir(parents=True)
    for name, content in files_of(text).items():
        (place / name).write_bytes(content)
    return place


def content(models):
    """Return all files below a directory by name, the staging area's too, but no caches of code.

    What the host keeps of a deploy is left out: it comes and goes with the files.
    """
    found = {}
    for root, folders, names in os.walk(models):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for path in (Path(root, name) for name in names if name != KEPT_NAME):
            try:
                found[str(path.relative_to(models))] = path.read_bytes()
            except FileNotFoundError:
                continue  # it goes just now
    return found


def entries(models):
    """Return what is in a models directory, the staging area too."""
    return sorted(os.listdir(models))


def is_tidy(models):
    """Say whether no staging area is there."""
    return not (models / STAGING).exists()


def await_tidy(models):
    """Wait until no staging area is there: an answer does not wait for the tidying up."""
    eventually(lambda: is_tidy(models), "staging is tidied up")


def undeploy_when_undone(client, model_id="m"):
    """Undeploy what is there once the host knows that a deploy for which nobody waits is undone.

    Until then it refuses the id, and the files of such a deploy go a moment before.
    """

    def is_undeployed():
        try:
            client.undeploy_model(model_id)
        except hostd.FailedPreconditionError:
            return False
        except hostd.NotFoundError:
            pass
        return True

    eventually(is_undeployed, "the deploy is undone, and what was there before is undeployed")


def all_at_once(acts):
    """Do all at the same moment; return what each raised."""
    barrier = threading.Barrier(len(acts))

    def do(act):
        barrier.wait(PATIENCE_S)
        try:
            act()
        except hostd.HostError as error:
            return error
        return None

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(do, acts))


@contextmanager
def emptied(host, models):
    """Give a client; afterwards what is deployed, and what is loaded, goes through the host."""
    with hostd.connect(host.endpoint) as client:
        yield client
        client.unload_all_models()
        await_tidy(models)  # or a file of the staging area goes while the directory is walked
        for place in sorted(models.rglob("model.py"), reverse=True):
            client.undeploy_model(str(place.parent.relative_to(models)))
        await_tidy(models)
        assert entries(models) == []


class Raw:
    """A client that sends what it likes; `ask` returns the answer's value or raises its error."""

    def __init__(self, endpoint):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._count = 0
        self._answers = {}
        self.welcome = self.answer(
            self.send(msg.pack_map(msg.HELLO, self._next(), {"versions": [wire.VERSION], "pid": 1}))
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._socket.close()  # without a BYE, as a client that is killed
        self._context.term()

    def _next(self):
        self._count += 1
        return self._count

    def send(self, frames):
        """Send a message as it is; return the id of the last request."""
        self._socket.send_multipart(frames)
        return self._count

    def begin(self, verb, **arguments):
        """Send a request, and return its id."""
        return self.send(msg.pack_map(msg.VERB, self._next(), arguments, header=msg.pack_verb(verb)))

    def begin_packed(self, verb, body):
        """Send a request with arguments that are packed already."""
        return self.send(wire.pack(msg.VERB, self._next(), msg.pack_verb(verb), body))

    def answer(self, request_id):
        """Wait for the answer to a request."""
        while request_id not in self._answers:
            assert self._socket.poll(PATIENCE_S * 1000), f"no answer within {PATIENCE_S:g} s"
            envelope = wire.unpack(self._socket.recv_multipart())
            self._answers[envelope.id] = envelope
        envelope = self._answers.pop(request_id)
        if envelope.kind == msg.ERROR:
            raise msg.unpack_error(envelope)
        return decode(envelope.body, envelope.buffers)

    def ask(self, verb, **arguments):
        """Send a request and wait for its answer."""
        return self.answer(self.begin(verb, **arguments))

    def refusal(self, verb, **arguments):
        """Send a request that must be refused, and return how."""
        return refusal(lambda: self.ask(verb, **arguments))

    def upload(self, model_id, files, **more):
        """Begin a deploy and send all files; return the upload."""
        names = [[name, len(data)] for name, data in files.items()]
        number = self.ask("deploy_begin", model_id=model_id, files=names, **more)["upload"]
        for index, data in enumerate(files.values()):
            for offset in range(0, len(data), MIB):
                self.ask("deploy_write", upload=number, file=index, offset=offset, data=data[offset : offset + MIB])
        return int(number)


def refusal(act):
    """Return the error that something must raise."""
    try:
        got = act()
    except hostd.HostError as error:
        return error
    raise AssertionError(f"this was not refused: {got!r}")
