"""The control plane's verbs: what clients may ask for besides calls, and what answers.

A verb that changes something becomes an event of the core; a verb that only asks is answered here, from the core's
records or by a coroutine that waits for a thread.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.shell.control.records import Records
from hostd.shell.verbs import (
    Request,
    Role,
    Verb,
    deploy_requested,
    files_id_of,
    given_labels,
    load_requested,
    path_of,
    plan_requested,
    unload_all_requested,
)
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import in_thread
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    NotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.shell.control.description import Description
    from hostd.shell.control.metrics import Metrics
    from hostd.shell.control.settings import Settings
    from hostd.shell.control.subscriptions import Subscriptions
    from hostd.shell.control.watches import Watches
    from hostd.shell.deploys.executor import Files
    from hostd.shell.processes.logs import LogDrain, ModelLog
    from hostd.shell.processes.pool import Workforce
    from hostd.shell.repository.declared import DeclaredModels
    from hostd.shell.repository.survey import Survey
    from hostd.shell.sizes.predictor import Sizes
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.transport.clients import Programs
    from hostd.shell.work.slices import Slices

_RECORDS_AT_ONCE = 32
"""Records that are made in one go, in a millisecond at most; more are made in slices."""


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
        programs: Programs,
        metrics: Metrics | None,
        subscriptions: Subscriptions,
        watches: Watches,
        description: Description,
        slices: Slices,
    ) -> None:
        self._supervisor = supervisor
        self._logs = logs
        self._files = files
        self._sizes = sizes
        self._workforce = workforce
        self._declared = declared
        self._survey = survey
        self._description = description
        self._settings = settings
        self._programs = programs
        self._metrics = metrics
        self._records = Records()
        self._slices = slices
        self._subscriptions = subscriptions
        self._watches = watches

    def verbs(self) -> dict[str, Verb]:
        """Return the table of verbs."""
        emit, answer = self._supervisor.emit, self._supervisor.answer
        return {
            "load_model": Verb(Role.MANAGE, lambda r: emit(load_requested(r))),
            "unload_model": Verb(Role.MANAGE, self._unload),
            "unload_all_models": Verb(Role.MANAGE, lambda r: emit(unload_all_requested(r))),
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
            "templates_info": Verb(Role.USE, self._templates_info),
            "reload_config": Verb(Role.ADMINISTER, self._reload),
            "shutdown": Verb(Role.ADMINISTER, lambda r: emit(ev.ShutdownRequested(r.caller))),
            "open_lane": Verb(Role.USE, lambda r: emit(ev.LaneRequested(r.caller, _model_id(r)))),
            "lane_fate": Verb(Role.USE, self._fate),
            "list_models": Verb(Role.USE, self._list_models),
            "get_model": Verb(Role.USE, self._get_model),
            "explain_model": Verb(Role.USE, self._explain_model),
            "model_logs": Verb(Role.USE, self._model_logs),
            "read_log": Verb(Role.USE, self._read_log),
            "model_stacks": Verb(Role.USE, self._model_stacks),
            "host_info": Verb(Role.USE, lambda r: answer(r.caller, self._description.info())),
            "host_summary": Verb(Role.USE, self._host_summary),
            "host_settings": Verb(Role.ADMINISTER, lambda r: answer(r.caller, self._settings.to_dict())),
            "metrics_page": Verb(Role.USE, self._metrics_page),
            "events": Verb(Role.USE, self._subscriptions.follow_events),
            "watch": Verb(Role.USE, self._watches.follow),
        }

    def _fate(self, request: Request) -> None:
        worker_id = ev.WorkerId(request.get("worker", int))
        self._supervisor.emit(ev.FateRequested(request.caller, worker_id, request.deadline_s))

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
            self._supervisor.start(self._with_declared(asked))
        else:
            self._supervisor.emit(asked)

    async def _with_declared(self, asked: ev.SyncRequested) -> ev.SyncRequested:
        with contextlib.suppress(Exception):
            return asked._replace(declared=await in_thread(self._declared.thread, self._declared.again))
        return asked

    def _estimate(self, request: Request) -> None:
        request.only("model_id", "path", "type")
        caller, model_type = request.caller, request.get("type", str, ev.STANDALONE)
        size = self._sizes.estimate(caller.client, request.get("model_id", str), path_of(request), model_type)
        self._supervisor.reply(caller, size)

    def _plan(self, request: Request) -> None:
        self._supervisor.reply(request.caller, self._planned(request.caller.client, *plan_requested(request)))

    async def _planned(self, client: ev.ClientId, model_id: ev.ModelId, source: ev.LoadSource) -> object:
        found = await self._sizes.foresee(client, model_id, source)
        return self._supervisor.core.queries.plan_load(model_id, found, self._supervisor.now())

    def _reload(self, request: Request) -> None:
        request.only()
        self._supervisor.reply(request.caller, self._reloaded())

    async def _reloaded(self) -> object:
        return (await self._settings.reload(self._supervisor))._asdict()

    def _pin(self, request: Request) -> None:
        request.only("model_id", "pinned")
        self._supervisor.emit(ev.PinRequested(request.caller, _model_id(request), request.get("pinned", bool, True)))

    def _host_summary(self, request: Request) -> None:
        request.only()
        self._supervisor.answer(request.caller, self._description.summary().to_brief_dict())

    def _memory_info(self, request: Request) -> None:
        request.only()
        memory = replace(self._supervisor.core.queries.memory(), budget_source=self._settings.budget_source)
        self._supervisor.answer(request.caller, memory.to_dict())

    def _templates_info(self, request: Request) -> None:
        request.only()
        self._supervisor.answer(request.caller, self._supervisor.core.queries.templates().to_dict())

    def _list_models(self, request: Request) -> None:
        request.only("all", "labels")
        caller, queries, labels = request.caller, self._supervisor.core.queries, given_labels(request) or {}
        if request.get("all", bool, False):
            self._supervisor.reply(caller, self._all_models(caller.client, labels))
        elif queries.model_count() <= _RECORDS_AT_ONCE:  # in the turn of the client, which is held up if it reads none
            self._supervisor.answer(caller, [*self._records.encoded(queries.each_model(), labels)])
        else:
            self._supervisor.reply(caller, self._models(caller.client, labels))

    async def _models(self, client: ev.ClientId, labels: dict[str, str]) -> list[bytes]:
        models = self._supervisor.core.queries.each_model()
        return await self._slices.all_of(client, self._records.encoded(models, labels))

    async def _all_models(self, client: ev.ClientId, labels: dict[str, str]) -> list[bytes]:
        models = self._supervisor.core.queries.each_of_all_models(await self._survey.take(client))
        return await self._slices.all_of(client, self._records.encoded(models, labels))

    def _get_model(self, request: Request) -> None:
        request.only("model_id", "all")
        caller, model_id, queries = request.caller, _model_id(request), self._supervisor.core.queries
        is_any = request.get("all", bool, False)
        model = queries.get_model(model_id) or (queries.get_absent(model_id) if is_any else None)
        if model is not None:
            self._supervisor.answer(caller, model.to_dict())
        elif is_any:
            self._supervisor.reply(caller, self._available(caller.client, model_id))
        else:
            raise queries.absence_of(model_id)

    async def _available(self, client: ev.ClientId, model_id: ev.ModelId) -> dict[str, Any]:
        """Return the record of what can be loaded, if a look at the disk finds it."""
        found, queries = await self._survey.take(client), self._supervisor.core.queries
        model = queries.get_model(model_id) or queries.get_absent(model_id, found)
        if model is None:
            raise NotFoundError(f"nothing is known of a model {model_id!r}")
        return model.to_dict()

    def _explain_model(self, request: Request) -> None:
        request.only("model_id")
        caller, model_id, queries = request.caller, _model_id(request), self._supervisor.core.queries
        known = queries.explain(model_id, self._supervisor.now())
        if known is not None:
            self._supervisor.answer(caller, self._explained(known))
        else:
            self._supervisor.reply(caller, self._looked_for(caller.client, model_id))

    async def _looked_for(self, client: ev.ClientId, model_id: ev.ModelId) -> dict[str, Any]:
        found = await self._survey.take(client)
        known = self._supervisor.core.queries.explain(model_id, self._supervisor.now(), found)
        if known is None:
            raise NotFoundError(f"nothing is known of a model {model_id!r}")
        return self._explained(known)

    def _explained(self, known: dict[str, Any]) -> dict[str, Any]:
        for call in known["calls"]:
            call["client"] = self._programs.of(call.pop("caller").client)
        return known

    def _model_logs(self, request: Request) -> None:
        request.only("model_id", "tail_bytes")
        tail_bytes = min(request.get("tail_bytes", int, 64 * 1024), self._logs.cap_bytes)
        text = self._seen_in_log(request, lambda log: log.tail(tail_bytes).decode(errors="replace"))
        self._supervisor.reply(request.caller, text)

    def _read_log(self, request: Request) -> None:
        request.only("model_id", "after", "tail_bytes")
        after, tail_bytes = request.get_optional("after", int), request.get("tail_bytes", int, 64 * 1024)
        page = self._seen_in_log(request, lambda log: log.page(after, tail_bytes)._asdict())
        self._supervisor.reply(request.caller, page)

    async def _seen_in_log(self, request: Request, look: Callable[[ModelLog], Any]) -> Any:
        """Look at the log of the model that a request is about, in a thread; what was never loaded has none."""
        client, model_id = request.caller.client, _model_id(request)
        log, is_known = self._logs.log_of(model_id), self._supervisor.core.queries.knows(model_id)
        try:
            found = await self._supervisor.read(client, lambda: look(log) if is_known or log.exists() else None)
        except Exception as error:  # noqa: BLE001 - a disk may fail in any way
            raise as_host_error(error, f"the log of {model_id!r}") from None
        if found is None:
            raise NotFoundError(
                f"there is no log of a model {model_id!r}: no model of this id was ever loaded here",
                details={"model_id": model_id},
            )
        return found

    def _model_stacks(self, request: Request) -> None:
        request.only("model_id")
        model_id, queries = _model_id(request), self._supervisor.core.queries
        if queries.get_model(model_id) is None:
            raise queries.absence_of(model_id)
        stacks = self._workforce.stacks(request.caller.client, queries.workers_of(model_id))
        self._supervisor.reply(request.caller, stacks)

    def _metrics_page(self, request: Request) -> None:
        request.only("accept")
        if self._metrics is None:
            raise FailedPreconditionError(
                "this host counts no metrics: set metrics.port (--metrics-port), or fronts.http (--http)"
            )
        write = partial(self._metrics.page, self._metrics.snapshot(), request.get("accept", str, ""))
        self._supervisor.reply(request.caller, self._supervisor.read(request.caller.client, write))


def _model_id(request: Request) -> ev.ModelId:
    return ev.ModelId(request.get("model_id", str))
