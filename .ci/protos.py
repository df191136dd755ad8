"""Compile the messages of the gRPC front, or `--check` that they are current; needs the package grpcio-tools.

A set of descriptors is made, not Python modules: those refuse to run with another major version of protobuf, and
register themselves in a pool that all packages of a process share, in which each name may be defined once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "hostd" / "fronts" / "oip" / "grpc"
DESCRIPTORS = FOLDER / "descriptors.binpb"


def compiled() -> bytes:
    """Return the set of descriptors of all messages."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / DESCRIPTORS.name
        names = sorted(file.name for file in FOLDER.glob("*.proto"))
        if protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={made}", *names]):
            sys.exit("the messages cannot be compiled")
        return made.read_bytes()


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        DESCRIPTORS.write_bytes(compiled())
    elif DESCRIPTORS.read_bytes() != compiled():
        sys.exit(f"{DESCRIPTORS.name} is not what the .proto files say: run .ci/protos.py")
