"""What an answer to a deploy, an undeploy or a sync promises: asserted whenever the core gives one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.records import ModelInfo, SyncReport, UnloadReport
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from files_on_paper import Operation

LEFT_EARLY = "what was asked for goes on"
"""How the error of a caller that waits no longer ends, whatever became of what it asked for."""

USED_TWICE = "is in use by another request of this client"
"""How the error of a request that was never looked at ends; the one that has the id waits on."""

_ACCEPTED_BY = {
    fx.StageFiles: ev.DeployRequested,
    fx.InstallFiles: ev.DeployCommitRequested,
    fx.UndoFiles: (ev.DeployCommitRequested, ev.DeployAbortRequested),
    fx.CheckFiles: ev.UndeployRequested,
}


class Promises:
    """Requests that an operation on files was begun for, and what their answers say of it."""

    def __init__(self) -> None:
        self._accepted: dict[ev.Caller, tuple[ev.Event, Operation]] = {}

    def note_order(self, effect: fx.Effect, cause: ev.Event, operation: Operation) -> None:
        """Note which request an order of the core follows from."""
        asked = _ACCEPTED_BY.get(type(effect))
        if asked is not None and isinstance(cause, asked):
            self._accepted[cause.caller] = (cause, operation)

    def lose_client(self, client: ev.ClientId) -> None:
        for caller in [caller for caller in self._accepted if caller.client == client]:
            del self._accepted[caller]

    def note_answer(self, caller: ev.Caller, answer: object) -> None:
        """Assert that an answer is true."""
        if isinstance(answer, SyncReport):
            told = [*answer.loaded, *answer.failed, *answer.writing]
            assert len(set(told)) == len(told), f"two things are said of one load: {answer}"
        is_other = isinstance(answer, HostError) and answer.message.endswith(USED_TWICE)
        if caller not in self._accepted or is_other:
            return
        event, operation = self._accepted.pop(caller)
        if isinstance(answer, HostError):
            if not answer.message.endswith(LEFT_EARLY):
                self._check_error(event, operation, answer)
        elif isinstance(event, ev.DeployRequested):
            assert operation.is_staged
            assert answer == {"upload": operation.id}
        elif isinstance(event, ev.DeployCommitRequested):
            assert isinstance(answer, ModelInfo)
            assert operation.requested is not None
            may_still_fail = not operation.requested.wait and answer.state == "LOADING"
            assert operation.is_installed if may_still_fail else operation.is_confirmed, f"{operation}: {answer}"
        elif isinstance(event, ev.DeployAbortRequested):
            assert operation.is_over
        else:
            assert isinstance(answer, UnloadReport)
            assert operation.is_removed

    def _check_error(self, event: ev.Event, operation: Operation, error: HostError) -> None:
        if isinstance(event, ev.DeployCommitRequested) and operation.is_confirmed:
            assert operation.requested is not None
            assert operation.requested.keep or error.message.endswith("its files stay"), f"{operation}: {error}"
        else:
            assert operation.is_over, f"{operation} is not undone yet: {error}"
