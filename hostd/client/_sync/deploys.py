# Generated from hostd/client/_async/deploys.py by .ci/unasync.py: edit that one.
"""The requests of a deploy: begin, the pieces of the files, commit; or abort."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hostd.client import deploying
from hostd.client.files import Reader, collect
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd.client._sync.channel import Channel
    from hostd.client.files import Files, Part
    from hostd.client.tracker import Make, Pending


def deploy(
    channel: Channel,
    files: Files,
    arguments: dict[str, Any],
    progress: deploying.Progress | None,
    timeout_s: float | None,
) -> dict[str, Any]:
    """Deploy files and return the record of their model; nothing is left in the host if that fails."""
    deadline = deploying.Deadline(timeout_s)
    collected = collect(files)
    arguments = {**arguments, **deploying.files_arguments(collected)}
    begun = _ask(channel, "deploy_begin", deadline, arguments)
    try:
        _send(channel, begun["upload"], collected.parts, progress, deadline)
        return dict(_ask(channel, "deploy_commit", deadline, {"upload": begun["upload"]}))
    except BaseException as error:
        if deploying.is_worth_an_abort(error):
            with suppress(HostError):
                _ask(
                    channel, "deploy_abort", deploying.Deadline(deploying.ABORT_TIMEOUT_S), {"upload": begun["upload"]}
                )
        raise


def _verb(verb: str, arguments: dict[str, Any], timeout_s: float | None) -> Make:
    return lambda tracker: tracker.verb(verb, arguments, timeout_s)


def _ask(channel: Channel, verb: str, deadline: deploying.Deadline, arguments: dict[str, Any]) -> Any:
    timeout_s = deadline.left_s()
    return channel.ask(_verb(verb, arguments, timeout_s), timeout_s)


def _send(
    channel: Channel,
    upload: int,
    parts: list[Part],
    progress: deploying.Progress | None,
    deadline: deploying.Deadline,
) -> None:
    sent_bytes, total_bytes = 0, sum(part.size_bytes for part in parts)
    reader = Reader(parts, deploying.chunk_bytes(channel.max_message_bytes))
    waiting: deque[tuple[Pending, int]] = deque()
    try:
        chunk = reader.next()
        while chunk is not None or waiting:
            if chunk is None or len(waiting) == deploying.WINDOW:
                pending, size_bytes = waiting[0]
                channel.wait(pending, deadline.left_s())
                waiting.popleft()
                sent_bytes += size_bytes
                if progress is not None:
                    progress(sent_bytes, total_bytes)
            else:
                piece = {"upload": upload, **chunk._asdict()}
                pending = channel.begin(_verb("deploy_write", piece, deadline.left_s()))
                waiting.append((pending, len(chunk.data)))
                chunk = reader.next()
    finally:
        reader.close()
        for pending, _ in waiting:
            channel.cancel(pending)
