"""Found in the place of ZeroMQ by a worker: goes wrong between its first line and its hello, then steps aside."""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
del sys.modules["zmq"]
sys.path.append(os.path.dirname(_here))

import faults

faults.commit(os.environ["FAULT_DEATH"], os.environ["FAULT_EVIDENCE"])

import zmq  # noqa: F401 - the real one, which the import system then hands out in our place
