"""The requests of a deploy: begin, the pieces of the files, commit; or abort."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hostd.client import deploying
from hostd.client.files import Reader, collect
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd.client._async.channel import AsyncChannel
    from hostd.client.files import Files, Part
    from hostd.client.tracker import Make, Pending


async def deploy(
    channel: AsyncChannel,
    files: Files,
    arguments: dict[str, Any],
    progress: deploying.Progress | None,
    timeout_s: float | None,
) -> dict[str, Any]:
    """Deploy files and return the record of their model; nothing is left in the host if that fails."""
    deadline = deploying.Deadline(timeout_s)
    collected = await asyncio.to_thread(collect, files)
    arguments = {**arguments, **deploying.files_arguments(collected)}
    begun = await _ask(channel, "deploy_begin", deadline, arguments)
    try:
        await _send(channel, begun["upload"], collected.parts, progress, deadline)
        return dict(await _ask(channel, "deploy_commit", deadline, {"upload": begun["upload"]}))
    except BaseException as error:
        if deploying.is_worth_an_abort(error):
            with suppress(HostError):
                await _ask(
                    channel, "deploy_abort", deploying.Deadline(deploying.ABORT_TIMEOUT_S), {"upload": begun["upload"]}
                )
        raise


def _verb(verb: str, arguments: dict[str, Any], timeout_s: float | None) -> Make:
    return lambda tracker: tracker.verb(verb, arguments, timeout_s)


async def _ask(channel: AsyncChannel, verb: str, deadline: deploying.Deadline, arguments: dict[str, Any]) -> Any:
    timeout_s = deadline.left_s()
    return await channel.ask(_verb(verb, arguments, timeout_s), timeout_s)


async def _send(
    channel: AsyncChannel,
    upload: int,
    parts: list[Part],
    progress: deploying.Progress | None,
    deadline: deploying.Deadline,
) -> None:
    sent_bytes, total_bytes = 0, sum(part.size_bytes for part in parts)
    reader = Reader(parts, deploying.chunk_bytes(channel.max_message_bytes))
    waiting: deque[tuple[Pending, int]] = deque()
    try:
        chunk = await asyncio.to_thread(reader.next)
        while chunk is not None or waiting:
            if chunk is None or len(waiting) == deploying.WINDOW:
                pending, size_bytes = waiting[0]
                await channel.wait(pending, deadline.left_s())
                waiting.popleft()
                sent_bytes += size_bytes
                if progress is not None:
                    progress(sent_bytes, total_bytes)
            else:
                piece = {"upload": upload, **chunk._asdict()}
                pending = await channel.begin(_verb("deploy_write", piece, deadline.left_s()))
                waiting.append((pending, len(chunk.data)))
                chunk = await asyncio.to_thread(reader.next)
    finally:
        reader.close()
        for pending, _ in waiting:
            channel.cancel(pending)
