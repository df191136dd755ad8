"""What several rooms of the shell are tested with: kernels, a models directory, sockets, and processes of our own."""

import ctypes

import pytest
from helpers import descendants
from kernels import KERNELS
from machine_rig import Machine
from process_rig import Workers
from transport_rig import Others, Transport

from hostd.shell.deploys.staging import Staging
from hostd.shell.processes.spawner import Processes
from hostd.shell.repository.directory import ModelsDirectory

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(params=KERNELS)
def kernel(request):
    """The system calls of each kind of kernel in turn."""
    return KERNELS[request.param]()


@pytest.fixture
def models(tmp_path):
    """An empty models directory."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def staging(models, kernel):
    """The staging area of the test's models directory."""
    return Staging(ModelsDirectory(models, calls=kernel))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def transport(tmp_path):
    with Transport(tmp_path) as made:
        yield made


@pytest.fixture
def others():
    """Start other processes that connect to a listener."""
    made = []

    def make(path):
        made.append(Others(path))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def ours():
    """Processes of this process, which is a subreaper meanwhile as a supervisor is; it must have no other children."""
    assert descendants() == [], "these tests kill every child of this process that they do not know"
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield Processes()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def spawn(ours, tmp_path):
    made = Workers(ours, tmp_path)
    yield made
    made.end()
