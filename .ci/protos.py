"""Compile the messages of the gRPC fronts, or `--check` that they are current; needs the package grpcio-tools.

Each folder gets a set of descriptors, not Python modules: those refuse to run with another major version of protobuf,
and register themselves in a pool that all packages of a process share, in which each name may be defined once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

FRONTS = Path(__file__).parents[1] / "hostd" / "fronts"
FOLDERS = (FRONTS / "oip" / "grpc", FRONTS / "modelmesh")
NAME = "descriptors.binpb"


def compiled(folder: Path) -> bytes:
    """Return the set of descriptors of all messages of a folder."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / NAME
        names = sorted(file.name for file in folder.glob("*.proto"))
        if protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", *names]):
            sys.exit(f"the messages of {folder.name} cannot be compiled")
        return made.read_bytes()


if __name__ == "__main__":
    is_check = sys.argv[1:] == ["--check"]
    for each in FOLDERS:
        if not is_check:
            (each / NAME).write_bytes(compiled(each))
        elif (each / NAME).read_bytes() != compiled(each):
            sys.exit(f"{each.name}/{NAME} is not what the .proto files say: run .ci/protos.py")
