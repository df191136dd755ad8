"""The control plane's verbs: what clients may ask for besides calls, and who answers.

A verb that changes something becomes an event of the core; a verb that only asks is answered here, from the core's
records or from a thread that looks at a disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.shares import ClientShares
from hostd.shell.supervisor import as_host_error
from hostd.shell.verbs import (
    Request,
    Role,
    Verb,
    deploy_requested,
    files_id_of,
    load_requested,
    path_of,
    plan_requested,
)
from hostd.units import counted
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import HostError, InvalidArgumentError, NotFoundError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.events import Prediction
    from hostd.records import Event, HostInfo, SizeEstimate
    from hostd.shell.control.settings import ReloadReport, Settings
    from hostd.shell.deploys.executor import Files
    from hostd.shell.processes.logs import LogDrain, ModelLog
    from hostd.shell.processes.pool import Workforce
    from hostd.shell.repository.declared import DeclaredModels
    from hostd.shell.repository.survey import Survey
    from hostd.shell.sizes.predictor import Sizes
    from hostd.shell.supervisor import Supervisor

_MAX_SUBSCRIPTIONS = 64
"""Of one client: every one of them costs a message at every transition."""

_RECORDS_AT_ONCE = 32
"""Records that are encoded on the loop, in 4 ms; a thousand take 0.12 s."""

_MAX_ALL_SUBSCRIPTIONS = 4096
"""Of all clients, in fair shares: an event to so many takes the loop 20 ms."""


class Control:
    """Answers the verbs of one host."""

    def __init__(
        self,
        supervisor: Supervisor,
        logs: LogDrain,
        files: Files,
        sizes: Sizes,
        workforce: Workforce,
        declared: DeclaredModels,
        survey: Survey,
        settings: Settings,
        info: Callable[[], HostInfo],
        *,
        log_bytes: int,
    ) -> None:
        self._supervisor = supervisor
        self._logs = logs
        self._files = files
        self._sizes = sizes
        self._workforce = workforce
        self._declared = declared
        self._survey = survey
        self._info = info
        self._settings = settings
        self._log_bytes = log_bytes
        self._subscribers: ByClient[str | None] = ByClient()
        self._subscriptions = ClientShares()
        supervisor.listeners.append(self._publish)

    def verbs(self) -> dict[str, Verb]:
        """Return the table of verbs."""
        emit = self._supervisor.emit
        return {
            "load_model": Verb(Role.MANAGE, lambda r: emit(load_requested(r))),
            "unload_model": Verb(Role.MANAGE, self._unload),
            "unload_all_models": Verb(
                Role.MANAGE,
                lambda r: emit(ev.UnloadAllRequested(r.caller, r.deadline_s, r.get("now", bool, False))),
            ),
            "retrieve_model": Verb(Role.USE, self._retrieve),
            "deploy_begin": Verb(Role.MANAGE, lambda r: emit(deploy_requested(r))),
            "deploy_write": Verb(Role.MANAGE, self._files.write),
            "deploy_commit": Verb(
                Role.MANAGE, lambda r: emit(ev.DeployCommitRequested(r.caller, files_id_of(r), r.deadline_s))
            ),
            "deploy_abort": Verb(Role.MANAGE, lambda r: emit(ev.DeployAbortRequested(r.caller, files_id_of(r)))),
            "undeploy_model": Verb(
                Role.MANAGE, lambda r: emit(ev.UndeployRequested(r.caller, _model_id(r), r.deadline_s))
            ),
            "sync_local_models": Verb(Role.MANAGE, self._sync),
            "estimate_model_size": Verb(Role.USE, self._estimate),
            "plan_load": Verb(Role.USE, self._plan),
            "pin_model": Verb(Role.MANAGE, self._pin),
            "memory_info": Verb(Role.USE, self._memory_info),
            "reload_config": Verb(Role.ADMINISTER, self._reload),
            "shutdown": Verb(Role.ADMINISTER, lambda r: emit(ev.ShutdownRequested(r.caller))),
            "list_models": Verb(Role.USE, self._list_models),
            "get_model": Verb(Role.USE, self._get_model),
            "explain_model": Verb(Role.USE, self._explain_model),
            "model_logs": Verb(Role.USE, self._model_logs),
            "read_log": Verb(Role.USE, self._read_log),
            "model_stacks": Verb(Role.USE, self._model_stacks),
            "host_info": Verb(Role.USE, lambda r: self._answer(r, self._info().to_dict())),
            "host_settings": Verb(Role.ADMINISTER, lambda r: self._answer(r, self._settings.to_dict())),
            "events": Verb(Role.USE, self._subscribe),
        }

    def withdraw(self, client: ev.ClientId, request_id: int | None) -> None:
        """End a client's subscription, or with None all of them."""
        callers = self._subscribers.of(client) if request_id is None else [ev.Caller(client, request_id)]
        for caller in callers:
            if caller in self._subscribers:
                self._subscribers.pop(caller)
                self._subscriptions.give_back(client)

    def _answer(self, request: Request, value: Any) -> None:
        self._supervisor.frontend.answer(request.caller, value)

    def _answer_from(self, request: Request, make: Callable[[], Any], records: int) -> None:
        """Answer with what `make` returns; if that is many records, they are made and encoded in a thread."""
        if records <= _RECORDS_AT_ONCE:
            self._answer(request, make())
            return

        def then(found: Any) -> None:
            if isinstance(found, BaseException):
                self._supervisor.frontend.refuse(request.caller, as_host_error(found, "the answer cannot be sent"))
                return
            body, buffers = found
            frames = wire.pack(msg.RESULT, request.caller.request_id, body=body, buffers=buffers)
            self._supervisor.frontend.send(request.caller.client, frames)

        self._supervisor.read(request.caller.client, lambda: encode(make()), then)

    def _retrieve(self, request: Request) -> None:
        request.only("model_id", "generation")
        generation = request.get_optional("generation", int)
        self._supervisor.emit(ev.RetrieveRequested(request.caller, _model_id(request), request.deadline_s, generation))

    def _unload(self, request: Request) -> None:
        request.only("model_id", "now")
        now = request.get("now", bool, False)
        self._supervisor.emit(ev.UnloadRequested(request.caller, _model_id(request), request.deadline_s, now))

    def _sync(self, request: Request) -> None:
        request.only("wait", "load")
        wait, load = request.get("wait", bool, False), request.get("load", bool, True)
        asked = ev.SyncRequested(request.caller, wait, load, retry_all=load, deadline_s=request.deadline_s)
        if load and self._declared.may_change:
            self._supervisor.in_thread(self._declared.thread, self._declared.again, lambda now: _declaring(asked, now))
        else:
            self._supervisor.emit(asked)

    def _estimate(self, request: Request) -> None:
        request.only("model_id", "path", "type")

        def then(found: SizeEstimate | HostError) -> None:
            if isinstance(found, HostError):
                self._supervisor.frontend.refuse(request.caller, found)
            else:
                self._answer(request, found.to_dict())

        model_id, model_type = request.get("model_id", str), request.get("type", str, ev.STANDALONE)
        self._sizes.estimate(request.caller.client, model_id, path_of(request), model_type, then)

    def _plan(self, request: Request) -> None:
        model_id, source = plan_requested(request)

        def then(found: Prediction | HostError) -> None:
            if isinstance(found, HostError):
                self._supervisor.frontend.refuse(request.caller, found)
            else:
                plan = self._supervisor.core.queries.plan_load(model_id, found, self._supervisor.now())
                self._answer(request, plan.to_dict())

        self._sizes.foresee(request.caller.client, model_id, source, then)

    def _reload(self, request: Request) -> None:
        request.only()

        def then(done: ReloadReport | HostError) -> None:
            if isinstance(done, HostError):
                self._supervisor.frontend.refuse(request.caller, done)
            else:
                self._answer(request, done._asdict())

        self._settings.reload(then)

    def _pin(self, request: Request) -> None:
        request.only("model_id", "pinned")
        self._supervisor.emit(ev.PinRequested(request.caller, _model_id(request), request.get("pinned", bool, True)))

    def _memory_info(self, request: Request) -> None:
        request.only()
        memory = replace(self._supervisor.core.queries.memory(), budget_source=self._settings.budget_source)
        self._answer(request, memory.to_dict())

    def _list_models(self, request: Request) -> None:
        request.only("all")
        core = self._supervisor.core
        if not request.get("all", bool, False):
            models = core.queries.list_models()
            self._answer_from(request, lambda: [model.to_dict() for model in models], len(models))
            return

        def then(entries: list[ev.DirectoryEntry]) -> None:
            known = core.queries.list_all_models(entries)
            self._answer_from(
                request,
                lambda: [model.to_dict() if model.generation else model.to_brief_dict() for model in known],
                len(known),
            )

        self._survey.take(request.caller.client, then)

    def _get_model(self, request: Request) -> None:
        request.only("model_id")
        model_id = _model_id(request)
        model = self._supervisor.core.queries.get_model(model_id)
        if model is None:
            raise self._supervisor.core.queries.absence_of(model_id)
        self._answer(request, model.to_dict())

    def _explain_model(self, request: Request) -> None:
        request.only("model_id")
        model_id, core = _model_id(request), self._supervisor.core
        known = core.queries.explain(model_id, self._supervisor.now())
        if known is not None:
            self._explain(request, known)
        else:
            self._survey.take(
                request.caller.client,
                lambda found: self._explain(request, core.queries.explain(model_id, self._supervisor.now(), found)),
            )

    def _explain(self, request: Request, explanation: dict[str, Any] | None) -> None:
        if explanation is None:
            unknown = NotFoundError(f"nothing is known of a model {_model_id(request)!r}")
            self._supervisor.frontend.refuse(request.caller, unknown)
            return
        for call in explanation["calls"]:
            call["client"] = self._supervisor.frontend.program_of(call.pop("caller").client)
        self._answer(request, explanation)

    def _model_logs(self, request: Request) -> None:
        request.only("model_id", "tail_bytes")
        tail_bytes = request.get("tail_bytes", int, 64 * 1024)

        def then(tail: Any) -> None:
            self._answer(request, tail.decode(errors="replace"))

        self._look_at_log(request, lambda log: log.tail(min(tail_bytes, self._log_bytes)), then)

    def _read_log(self, request: Request) -> None:
        request.only("model_id", "after", "tail_bytes")
        after, tail_bytes = request.get_optional("after", int), request.get("tail_bytes", int, 64 * 1024)
        self._look_at_log(
            request, lambda log: log.page(after, tail_bytes), lambda page: self._answer(request, page._asdict())
        )

    def _look_at_log(self, request: Request, look: Callable[[ModelLog], Any], then: Callable[[Any], None]) -> None:
        """Look at the log of the model that a request is about, in a thread, and answer; nobody's is NOT_FOUND."""
        model_id = _model_id(request)
        log, is_known = self._logs.log_of(model_id), self._supervisor.core.queries.knows(model_id)

        def answer(found: Any) -> None:
            if isinstance(found, BaseException):
                self._supervisor.frontend.refuse(request.caller, as_host_error(found, f"the log of {model_id!r}"))
            elif found is None:
                error = NotFoundError(
                    f"there is no log of a model {model_id!r}: no model of this id was ever loaded here",
                    details={"model_id": model_id},
                )
                self._supervisor.frontend.refuse(request.caller, error)
            else:
                then(found)

        self._supervisor.read(request.caller.client, lambda: look(log) if is_known or log.exists() else None, answer)

    def _model_stacks(self, request: Request) -> None:
        request.only("model_id")
        model_id, core = _model_id(request), self._supervisor.core
        if core.queries.get_model(model_id) is None:
            raise core.queries.absence_of(model_id)

        def then(found: object) -> None:
            if isinstance(found, HostError):
                self._supervisor.frontend.refuse(request.caller, found)
            else:
                self._answer(request, found)

        self._workforce.stacks(request.caller.client, core.queries.workers_of(model_id), then)

    def _subscribe(self, request: Request) -> None:
        request.only("model_id")
        model_id, client, shares = request.get_optional("model_id", str), request.caller.client, self._subscriptions
        if shares.of(client) >= _MAX_SUBSCRIPTIONS or not shares.allows(client, 1, _MAX_ALL_SUBSCRIPTIONS):
            raise ResourceExhaustedError(
                f"this client has {counted(shares.of(client), 'subscription')}; it may have {_MAX_SUBSCRIPTIONS}, and "
                "fewer if others have many: close some first"
            )
        if request.caller in self._subscribers:
            raise InvalidArgumentError(f"request id {request.caller.request_id} is in use by another subscription")
        self._subscribers[request.caller] = model_id
        shares.take(client)
        # "Noted": what happens from now on will come.
        self._supervisor.frontend.answer(request.caller, None, msg.ITEM)

    def _publish(self, event: Event) -> None:
        callers = [caller for caller in self._subscribers if self._subscribers[caller] in (None, event.model_id)]
        if callers:
            body, buffers = encode(event.to_dict())  # once for all: it is most of what an answer costs
            for caller in callers:
                frames = wire.pack(msg.ITEM, caller.request_id, body=body, buffers=buffers)
                self._supervisor.frontend.send(caller.client, frames)


def _declaring(asked: ev.SyncRequested, declared: Any) -> ev.SyncRequested:
    return asked._replace(declared=declared) if isinstance(declared, dict) else asked


def _model_id(request: Request) -> ev.ModelId:
    return ev.ModelId(request.get("model_id", str))
