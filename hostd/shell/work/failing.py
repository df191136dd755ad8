"""What it means that an effect could not be carried out: the core waits for something from most, and must hear of it.

Rules
1. An effect that something would wait for in vain becomes the event that says that it failed.
2. An effect for which there is no such event, because it must succeed, is tried again after `RETRY_S`: `RETRIED`.
3. Of the others nothing follows but a line in the log: `LOST`.

Every effect is in exactly one of the three; a test compares them with all that there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.wire.errors import HostError

RETRY_S = 1.0
"""What the system lacks (a thread, a descriptor, memory) is there again when something else has ended."""

RETRIED = (fx.KillWorker, fx.EndTemplate, fx.ResumeWorker, fx.PredictSize, fx.Stop)

LOST = (
    fx.RememberSize,
    fx.RememberImports,
    fx.TidyFiles,
    fx.LeaveEntry,
    fx.OpenLanes,
    fx.ForwardCancel,
    fx.ForwardCredit,
    fx.RelayAnswer,
    fx.Answer,
    fx.AnswerError,
    fx.Announce,
)
"""What goes to clients is here: what cannot be sent to them now cannot be sent later, and their connection says so."""


def _of_files(effect: Any, error: HostError, _now: float) -> ev.Event:
    return ev.FilesFailed(effect.files_id, error)


FAILURES: dict[type, Callable[[Any, HostError, float], ev.Event]] = {
    fx.FindSpec: lambda effect, error, _: ev.SpecRefused(effect.model_id, effect.generation, error),
    fx.SpawnWorker: lambda effect, error, _: ev.WorkerSpawnFailed(effect.worker_id, error),
    fx.StartTemplate: lambda effect, error, _: ev.TemplateEnded(effect.template_id, error.message),
    fx.SendLoad: lambda effect, error, _: ev.WorkerRefusedLoad(effect.worker_id, error),
    fx.CloseLanes: lambda effect, _, __: ev.LanesClosed(effect.worker_id),
    fx.CloseModel: lambda effect, error, _: ev.ModelClosed(effect.worker_id, error.message),
    fx.MeasureWorker: lambda effect, _, now: ev.WorkerMeasured(effect.worker_id, None, now),
    fx.PauseWorker: lambda effect, error, _: ev.WorkerPauseFailed(effect.worker_id, error.message),
    fx.StageFiles: _of_files,
    fx.InstallFiles: _of_files,
    fx.ConfirmFiles: _of_files,
    fx.CheckFiles: _of_files,
    fx.RemoveFiles: _of_files,
    fx.UndoFiles: lambda effect, error, _: ev.FilesUndone(effect.files_id, error),
    fx.KeepPin: lambda effect, error, _: ev.PinKept(effect.files_id, error),
    fx.CompareFiles: lambda effect, _, __: ev.FilesCompared(effect.model_id, effect.generation, None),
    fx.ScanDirectory: lambda effect, error, _: ev.DirectoryUnavailable(effect.sync_id, error.message),
    fx.ForwardCall: lambda effect, _, __: ev.WorkerUnreachable(effect.worker_id, effect.call_id, is_full=False),
    fx.ForwardFeed: lambda effect, _, __: ev.WorkerUnreachable(
        effect.worker_id, effect.call_id, is_full=False, has_begun=True
    ),
}
