"""The journal of one operation on the models directory: enough to undo it, or to finish it, after any end.

An entry is a file `<token>.json` in the staging area, one JSON object per line. The first says what is done, and its
first value is the state: one byte, so one system call on a descriptor opened with O_DSYNC makes an operation last.
Later lines are notes, each durable before the step that it is about; a line without its end was never acted upon. The
host that works on an entry holds its lock (flock), so that another host on the same directory leaves it alone.

Covers the file. What follows from it is in `moves`.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from hostd.core.names import model_id_of
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from hostd.core.events import ModelId
    from hostd.shell.linux.syscalls import SystemCalls

SUFFIX = ".json"
SPARE = "-spare"
"""What the old tree is called where two names cannot be exchanged at once."""
TOKEN_CHARS = 16

_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK
"""Flags to open what is called like an entry: it may be a link, or a fifo on which an open would wait for ever."""
_STATE_AT = len('{"state": ')
_MAX_BYTES = 64 * 1024
_ALL_BITS = 0o7777
"""Of a file's mode."""
_MAX_TRIES = 100
"""Of a new name or a new staging area, which another host may remove just then because it is empty."""


class Operation(enum.Enum):
    """What an entry is about."""

    DEPLOY = "deploy"
    UNDEPLOY = "undeploy"


class State(enum.Enum):
    """How far it is: an OPEN one is undone at a restart, of the others only the remains are removed."""

    OPEN = b"0"
    CONFIRMED = b"1"
    UNDONE = b"2"


class Journal:
    """One entry, open and locked by this process."""

    def __init__(self, calls: SystemCalls, staging_fd: int, token: str, fd: int) -> None:
        self._calls = calls
        self._staging_fd = staging_fd
        self._fd: int | None = fd
        self._end = 0
        self.token = token
        self.model_id: ModelId | None = None
        """None for an entry without even a first line: nothing was done."""
        self.is_strange = False
        """Its first line says what this version does not know: it is left alone."""
        self.operation = Operation.DEPLOY
        self.state = State.OPEN
        self.tree_inode: int | None = None
        """Of the new tree, from before it may be seen."""
        self.first_made: int | None = None
        """How many folders on the way to the model were there before; those after them are this operation's."""
        self.has_placeholder = False
        """An empty directory may hold the model's place."""
        self.closed_mode: tuple[int, int] | None = None
        """Inode and mode of the old directory if it had to be opened up."""

    def __repr__(self) -> str:
        return f"<Journal {self.token} {self.operation.value} of {self.model_id} {self.state.name}>"

    @classmethod
    def create(cls, calls: SystemCalls, staging_fd: int, operation: Operation, model_id: ModelId) -> Journal:
        """Make an entry that lasts. Raises OSError: FileNotFoundError if the staging area itself was removed."""
        for _ in range(_MAX_TRIES):
            token = os.urandom(TOKEN_CHARS // 2).hex()
            fd = calls.open(token + SUFFIX, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DSYNC, 0o640, at=staging_fd)
            journal = cls(calls, staging_fd, token, fd)
            try:
                # Another host's recovery may have taken it for the remains of a crash, or be about to.
                if calls.try_lock(fd) and calls.fstat(fd).st_nlink:
                    journal._begin(operation, model_id)
                    return journal
            except BaseException:
                journal.remove()
                raise
            journal.close()
        raise FileExistsError(f"no entry could be made in {_MAX_TRIES} tries")

    @classmethod
    def open(cls, calls: SystemCalls, staging_fd: int, token: str) -> Journal | None:
        """Open and lock an entry; None if it is gone or somebody works on it. Raises OSError."""
        try:
            fd = calls.open(token + SUFFIX, os.O_RDWR | os.O_DSYNC | _AS_IT_IS, at=staging_fd)
        except FileNotFoundError:
            return None
        journal = cls(calls, staging_fd, token, fd)
        try:
            if calls.try_lock(fd) and calls.fstat(fd).st_nlink:
                journal._read()
                return journal
        except BaseException:
            journal.close()
            raise
        journal.close()
        return None

    @classmethod
    def peek(cls, calls: SystemCalls, staging_fd: int, token: str) -> Journal | None:
        """Read an entry that somebody else may hold, and let it go; None if it is gone, or a link. Raises OSError."""
        try:
            fd = calls.open(token + SUFFIX, os.O_RDONLY | _AS_IT_IS, at=staging_fd)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:
                return None
            raise
        journal = cls(calls, staging_fd, token, fd)
        try:
            journal._read()
        finally:
            journal.close()
        return journal

    @property
    def is_visible(self) -> bool:
        """Whether the operation may have touched the model's place and is not over."""
        is_moving = self.tree_inode is not None or self.operation is Operation.UNDEPLOY
        return self.model_id is not None and self.state is State.OPEN and is_moving

    def note(self, **facts: Any) -> None:
        """Write down what is about to be done; it lasts when this returns. Raises OSError."""
        self._write(json.dumps(facts).encode() + b"\n", self._end)
        self._take(facts)

    def mark(self, state: State) -> None:
        """Decide: one system call, after which no restart sees it otherwise. Raises OSError."""
        self._calls.pwrite(self._open_fd(), state.value, _STATE_AT)
        self.state = state

    def remove(self) -> None:
        """End the entry, and give its lock back. Raises OSError."""
        try:
            self._calls.unlink(self.token + SUFFIX, self._staging_fd)
        except FileNotFoundError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Give the lock back; the entry stays for a recovery if it was not removed."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _begin(self, operation: Operation, model_id: ModelId) -> None:
        header = {"state": int(State.OPEN.value), "operation": operation.value, "model_id": model_id}
        self._write(json.dumps(header).encode() + b"\n", 0)
        self._calls.fsync_directory(self._staging_fd)
        self.operation, self.model_id = operation, model_id

    def _write(self, line: bytes, offset: int) -> None:
        written = 0
        while written < len(line):
            written += self._calls.pwrite(self._open_fd(), line[written:], offset + written)
        self._end = offset + len(line)

    def _read(self) -> None:
        if not stat.S_ISREG(self._calls.fstat(self._open_fd()).st_mode):
            self.is_strange = True
            return
        text = self._calls.pread(self._open_fd(), _MAX_BYTES, 0)
        header, *notes = text[: text.rfind(b"\n") + 1].splitlines() or [b""]
        self._end = text.rfind(b"\n") + 1
        if not header:
            return
        match _parsed(header):
            case {
                "state": 0 | 1 | 2 as state,
                "operation": "deploy" | "undeploy" as operation,
                "model_id": str(model_id),
            }:
                self.state = State(b"%d" % state)
                self.operation = Operation(operation)
                self.model_id = _id_or_none(model_id)
        self.is_strange = self.model_id is None
        for note in notes:
            self._take(_parsed(note))

    def _take(self, facts: dict[str, Any]) -> None:
        match facts:
            case {"tree": int(inode), "first_made": int(count)} if count >= 0:
                self.tree_inode = inode
                self.first_made = count if self.first_made is None else min(count, self.first_made)
            case {"placeholder": bool(is_made)}:
                self.has_placeholder = is_made
            case {"opened_up": [int(inode), int(mode)]} if 0 <= mode <= _ALL_BITS:
                self.closed_mode = (inode, mode)

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self!r} is closed")
        return self._fd


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # the latter of brackets in brackets in brackets
        return {}
    return value if isinstance(value, dict) else {}


def _id_or_none(text: str) -> ModelId | None:
    """Return an id only if it is one: somebody who can write an entry must not make the host move what is elsewhere."""
    try:
        return model_id_of(text)
    except InvalidArgumentError:
        return None
