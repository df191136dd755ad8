"""What a model was deployed with, kept beside its files: the file `.hostd-deploy.json`.

    {"version": 1, "type": "classifier", "options": {"greeting": "Yo"}, "retries": 2, "pinned": true}

It is written into the staged tree, so it comes and goes with the files of the deploy, and is no part of the model's
content: finders, digests and clients that deploy a directory leave it out. Only a pin changes it later. It is read
whenever a model is loaded from the models directory, with limits, because anybody may have changed it; one that is
damaged is an error of that model alone. All of it blocks on the disk: call it in threads.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from hostd.config.plain import check_plain, shown
from hostd.core.names import KEPT_NAME
from hostd.core.standing import MAX_RETRIES, Standing
from hostd.hints import nearest
from hostd.labels import labels_of
from hostd.shell.linux.syscalls import error_of
from hostd.shell.repository.directory import open_directory
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.shell.linux.syscalls import SystemCalls
    from hostd.shell.repository.directory import ModelsDirectory

VERSION = 1
MAX_BYTES = 64 * 1024
"""As of a `model.yaml`: options are a few lines."""

FILE_MODE = 0o640
"""Less umask: others than the host's user, and its group if the umask lets it, do not read what was deployed."""
_NEW_NAME = f"{KEPT_NAME}.new"
_NAMES = ("type", "finder", "initializer", "loader")
_KEYS = ("version", *_NAMES, "options", "retries", "pinned", "labels")


def packed(standing: Standing) -> bytes:
    """Return the file's content. Raises `InvalidArgumentError` for options that it cannot hold."""
    try:
        check_plain(standing.options, "options")
    except ValueError as error:
        raise InvalidArgumentError(
            f"a deploy keeps its options beside the model's files, so they must be plain values: {error}"
        ) from None
    values = {
        "version": VERSION,
        "type": standing.type,
        "finder": standing.finder,
        "initializer": standing.initializer,
        "loader": standing.loader,
        "options": dict(standing.options),
        "retries": standing.retries,
        "pinned": standing.is_pinned,
        "labels": dict(standing.labels or {}),
    }
    content = json.dumps({key: value for key, value in values.items() if value not in (None, {})}).encode() + b"\n"
    if len(content) > MAX_BYTES:
        raise InvalidArgumentError(
            f"the options of a deploy are kept beside the model's files in at most {MAX_BYTES} bytes, and these take "
            f"{len(content)}: put what is large into a file of the model"
        )
    return content


def read(directory: str) -> Standing | None:
    """Return what lies beside the files in a model's directory; None if nothing does.

    Raises `InvalidArgumentError` for a damaged file, `FailedPreconditionError` for one that cannot be read.
    """
    path = os.path.join(directory, KEPT_NAME)  # noqa: PTH118 - one string of many that scans and finders use
    try:
        # Not blocking, and no link: anything may have been put there.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FailedPreconditionError(f"cannot read {path}: {error.strerror}", details={"path": path}) from error
    try:
        return _unpacked(path, fd, os.pread)
    finally:
        os.close(fd)


def write(calls: SystemCalls, tree_fd: int, standing: Standing) -> None:
    """Put the file into a tree that is being staged; it lasts once the tree is flushed. Raises OSError."""
    _write(calls, tree_fd, KEPT_NAME, os.O_EXCL, packed(standing))


def standing_at(calls: SystemCalls, models_fd: int, model_id: str) -> Standing | None:
    """Return what lies at a model's place was deployed with; None if that is not known, or the file is damaged."""
    try:
        tree_fd = open_directory(calls, models_fd, model_id)
    except OSError:
        return None
    try:
        return _read_at(calls, tree_fd, model_id)
    except (OSError, InvalidArgumentError):
        return None
    finally:
        os.close(tree_fd)


def set_pinned(directory: ModelsDirectory, model_id: str, *, is_pinned: bool) -> None:
    """Write down whether a model is pinned, at once or not at all. Raises `HostError`."""
    calls, doing = directory.calls, f"cannot keep the pin of {model_id!r}"
    try:
        with directory.opened() as models_fd:
            tree_fd = open_directory(calls, models_fd, model_id)
            try:
                standing = _read_at(calls, tree_fd, model_id)
                if standing is None:
                    raise FailedPreconditionError(f"{doing}: its {KEPT_NAME} is gone; deploy it again")
                if bool(standing.is_pinned) != is_pinned:
                    content = packed(standing._replace(is_pinned=is_pinned))
                    _write(calls, tree_fd, _NEW_NAME, os.O_TRUNC, content)
                    calls.rename(_NEW_NAME, tree_fd, KEPT_NAME, tree_fd)
                    calls.fsync_directory(tree_fd)
            finally:
                os.close(tree_fd)
    except OSError as error:
        raise error_of(error, doing) from error


def _read_at(calls: SystemCalls, tree_fd: int, model_id: str) -> Standing | None:
    try:
        fd = calls.open(KEPT_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, at=tree_fd)
    except FileNotFoundError:
        return None
    try:
        return _unpacked(f"{model_id}/{KEPT_NAME}", fd, calls.pread)
    finally:
        os.close(fd)


def _write(calls: SystemCalls, tree_fd: int, name: str, how: int, content: bytes) -> None:
    fd = calls.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | how, FILE_MODE, at=tree_fd)
    try:
        written = 0
        while written < len(content):
            written += calls.pwrite(fd, content[written:], written)
        calls.fsync(fd)
    finally:
        os.close(fd)


def _unpacked(path: str, fd: int, pread: Callable[[int, int, int], bytes]) -> Standing:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise _damaged(path, "it is no regular file")
    content = pread(fd, MAX_BYTES + 1, 0)
    if len(content) > MAX_BYTES:
        raise _damaged(path, f"it has more than {MAX_BYTES} bytes")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from None
    if not isinstance(values, dict):
        raise _damaged(path, f"it must be a map, not {shown(values)}")
    return _checked(path, values)


def _checked(path: str, values: dict[str, Any]) -> Standing:
    if values.get("version") != VERSION:
        raise _damaged(path, f"its version is {shown(values.get('version'))}, and this host knows {VERSION}")
    for key in values:
        if key not in _KEYS:
            raise _damaged(path, f"unknown key {key[:80]!r}; {nearest(key[:80], _KEYS)}")
    for key in _NAMES:
        if not isinstance(values.get(key, ""), str):
            raise _damaged(path, f"{key} must be text, not {shown(values[key])}")
    options, retries, pinned = values.get("options", {}), values.get("retries"), values.get("pinned")
    if not isinstance(options, dict):
        raise _damaged(path, f"options must be a map, not {shown(options)}")
    try:
        check_plain(options, "options")
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    is_count = isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries <= MAX_RETRIES
    if retries is not None and not is_count:
        raise _damaged(path, f"retries must be a number from 0 to {MAX_RETRIES}, not {shown(retries)}")
    if pinned is not None and not isinstance(pinned, bool):
        raise _damaged(path, f"pinned must be true or false, not {shown(pinned)}")
    kind, finder, initializer, loader = (values.get(key) for key in _NAMES)
    labels = _labels_of(path, values)
    return Standing(kind, finder, initializer, options, retries, pinned, is_kept=True, labels=labels, loader=loader)


def _labels_of(path: str, values: dict[str, Any]) -> dict[str, str] | None:
    try:
        return labels_of(values["labels"]) if "labels" in values else None
    except InvalidArgumentError as error:
        raise _damaged(path, error.message) from None


def _damaged(path: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path}, which keeps what the model was deployed with, is damaged: {problem}. Deploy the model again "
        f"(hostd deploy --replace), or remove the file to load the model without these arguments",
        details={"path": path},
    )
