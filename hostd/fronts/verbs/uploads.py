"""The files of a deploy: received into a private directory, which goes whatever happens.

The body is never held whole. It is bounded in bytes and files, names are checked before anything is written, and
nothing is written but regular files and directories, each made anew. A directory stays only where this process is
killed: nothing of it runs then.

Does not cover the two forms of the body (`multipart`, `tar`), nor what the host thinks of the names.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from hostd.fronts.errors import UnsupportedMediaTypeError
from hostd.fronts.verbs.bounds import check_announced, media_type, too_long
from hostd.fronts.verbs.multipart import Multipart
from hostd.fronts.verbs.route import FORM, TAR, Limits
from hostd.fronts.verbs.tar import Tar
from hostd.fronts.verbs.tree import Tree, unwritten

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

_T = TypeVar("_T")

_PIECE_BYTES = 256 * 1024
"""What is written at once: a hand-over to a thread takes 50 us, as long as to copy so much."""


class Form(Protocol):
    """A form of the body, which makes files of it as it comes."""

    def feed(self, data: bytes) -> None:
        """Take what comes next. Raises `InvalidArgumentError` for what cannot be taken."""

    def end(self) -> None:
        """Say that all has come. Raises `InvalidArgumentError` if something is missing."""


@asynccontextmanager
async def received_files(request: Request, limits: Limits) -> AsyncIterator[Path]:
    """Receive the files of a request, and give the directory that has them for the length of the block."""
    kind = media_type(request)
    if kind not in (FORM, TAR):
        raise UnsupportedMediaTypeError(
            f"files come as {FORM} or {TAR}, and say so in Content-Type, got {kind or 'no Content-Type'}",
            details={"parameter": "Content-Type", "got": kind, "expected": [FORM, TAR]},
        )
    check_announced(request, limits.deploy_bytes)
    try:
        directory = Path(tempfile.mkdtemp(prefix="hostd-front-", dir=limits.files_dir))  # which has mode 0700
    except OSError as error:
        raise unwritten(error) from None
    tree = Tree(directory, limits.deploy_files)
    try:
        form = Tar(tree) if kind == TAR else Multipart(tree, request.headers["content-type"])
        await _receive(request, form, limits.deploy_bytes)
        yield directory
    finally:
        try:
            tree.close()
        finally:
            await _in_thread(partial(shutil.rmtree, directory))


async def _receive(request: Request, form: Form, most_bytes: int) -> None:
    size_bytes, waiting = 0, bytearray()
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > most_bytes:
            raise too_long(most_bytes)
        waiting += chunk
        if len(waiting) >= _PIECE_BYTES:
            piece, waiting = bytes(waiting), bytearray()
            await _in_thread(partial(form.feed, piece))
    await _in_thread(partial(form.feed, bytes(waiting)))
    form.end()


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Do work in a thread, to its end also where the task is cancelled: nobody else must touch the files meanwhile."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise
