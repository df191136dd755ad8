"""A model's directory in the cache of Hugging Face's hub, which holds snapshots of the model and is none itself.

The layout is that of huggingface_hub ("Understand caching"): `blobs`, `snapshots/<commit>`, and `refs/<name>`, a file
with a commit.
"""

from __future__ import annotations

from pathlib import Path

from hostd_workers.wire.errors import InvalidArgumentError

_REF_BYTES = 128
"""A commit has 40 characters."""


def refuse_hub_directory(path: str) -> None:
    """Raise InvalidArgumentError, with the snapshot to load, for such a directory; OSError passes through."""
    directory = Path(path)
    snapshots = directory / "snapshots"
    if not (snapshots.is_dir() and ((directory / "refs").is_dir() or (directory / "blobs").is_dir())):
        return
    made = sorted(snapshot for snapshot in snapshots.iterdir() if snapshot.is_dir())
    main = directory / "refs" / "main"
    if main.is_file():
        with main.open("rb") as stream:
            commit = stream.read(_REF_BYTES).decode(errors="replace").strip()
        made = [snapshot for snapshot in made if snapshot.name == commit] or made
    told = f"load its snapshot: {' or '.join(map(str, made))}" if made else "it has no snapshot yet: download it again"
    raise InvalidArgumentError(
        f"{path} is a directory of the hub's cache, not a model; {told}",
        details={"path": path, "snapshots": [str(snapshot) for snapshot in made]},
    )
