"""The table: each thing that can be asked for, with its path, role, parameters and answer.

Routing, the checks of arguments, the OpenAPI document and the page for people come from it, and from nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import hostd
from hostd.fronts.access import Role
from hostd.fronts.verbs import calls, described, files, host, models
from hostd.fronts.verbs.route import EVENTS, HTML, JSON, MSGPACK, TEXT, Body, Parameter, Place, Route
from hostd.fronts.verbs.shapes import Caller, Example, ListedModel, ModelList, Reloaded, Result, Size
from hostd.records import STANDALONE


def _query(*parameters: Parameter) -> tuple[Parameter, ...]:
    """Return the same parameters as a query has them."""
    return tuple(Parameter(p.name, p.kind, p.text, Place.QUERY, p.default, p.least) for p in parameters)


_TIMEOUT = Parameter("timeout_s", float, "How long to wait; without it there is no end.", least=0)
_CALL_TIMEOUT = Parameter("timeout_s", float, "How long it may take; without it as this front was told.", least=0)
_WAIT = Parameter("wait", bool, "Whether to answer when the model is loaded, not when that is begun.", default=True)
_NOW = Parameter("now", bool, "Whether to end calls in flight at once, with ABORTED.", default=False)
_ALL = Parameter("all", bool, "Also what is not loaded: FAILED, EVICTED, AVAILABLE, IGNORED.", default=False)
_PATH = Parameter("path", str, "Where the model is, an absolute path on the host's machine.")
_TYPE = Parameter("type", str, "The model's type.", default=STANDALONE)
_HOW = (
    _TYPE,
    Parameter("options", dict, "Options of the model's loader, over those of model.yaml."),
    Parameter("finder", str, "How to recognise the model; without it by model.yaml, then by its files."),
    Parameter("loader", str, "What loads the model; without it as model.yaml or its files say."),
    Parameter("initializer", str, "What makes the model's object; without it its loader."),
)
_RETRIES = Parameter("retries", int, "How often to try a failed load again; without it as the host is set.", least=0)
_LABELS = Parameter("labels", dict, "Labels of the model, in place of those that it has; without it these stay.")
_LABELED = Parameter("labels", dict, "Of the models only those that have all of these labels.")
_RELOAD = Parameter("reload", bool, "Unload first; without a path, load from where it was.", default=False)
_CANCEL = Parameter(
    "cancel_on_timeout", bool, "Whether the load ends with the wait for it, unless others wait too.", default=False
)
_REPLACE = Parameter("replace", bool, "Whether to deploy over a model, which serves meanwhile.", default=False)
_KEEP = Parameter("keep", bool, "Whether the files stay if only the load fails.", default=False)
_CALL = (
    Parameter("args", list, "The arguments by position."),
    Parameter("kwargs", dict, "The arguments by name."),
    *_query(Parameter("stream", bool, "Whether to follow the items of a generator.", default=False), _CALL_TIMEOUT),
)
_TAIL = Parameter("tail", int, "Of the lines that there are, the last ones; without it all that are kept.", least=0)
_FOLLOW = Parameter("follow", bool, "Whether to go on with what is printed from now on.", default=False)
_MODEL = Parameter("model", str, "The id of one model; without it those of all.")

_VALUES = """In JSON arrays come back as nested lists, bytes as base64, NaN and the infinities as strings, instants as
ISO 8601; lists stay lists. In msgpack an array is a map of `dtype` (as the .npy format has it, such as `<f4`), `shape`
and `data`, its bytes in C order, in both directions. With `stream` each item is an event `item` with JSON as its data,
then comes an event `end`; an event `error` in its place has what a failed call has as its body."""

ROUTES: Final = (
    Route("GET", "/v1/models", models.list_models, Role.READ, "List the models", ModelList, _query(_ALL, _LABELED)),
    Route("GET", "/v1/models/{id}", models.get_model, Role.READ, "Show a model", ListedModel, _query(_ALL)),
    Route(
        "POST",
        "/v1/models/{id}/load",
        models.load_model,
        Role.LOAD,
        "Load a model",
        hostd.ModelInfo,
        (_PATH, *_HOW, _RETRIES, _LABELS, _RELOAD, _WAIT, _TIMEOUT, _CANCEL),
        Body.MAP,
        text="A client that goes away waits no longer; the load that it has begun goes on in the host, but for "
        "`cancel_on_timeout`.",
    ),
    Route(
        "POST",
        "/v1/models/{id}/unload",
        models.unload_model,
        Role.LOAD,
        "Unload a model",
        hostd.UnloadReport,
        (_NOW, _TIMEOUT),
        Body.MAP,
        text="The answer comes when every process of the model is gone.",
    ),
    Route(
        "POST",
        "/v1/models/unload",
        models.unload_all_models,
        Role.LOAD,
        "Unload all models, or those with labels",
        list[hostd.UnloadReport],
        (_LABELED, _NOW, _TIMEOUT),
        Body.MAP,
    ),
    Route(
        "POST",
        "/v1/models/{id}/pin",
        models.pin_model,
        Role.LOAD,
        "Keep a model in memory",
        hostd.ModelInfo,
        body=Body.MAP,
        text="It is not evicted, whatever the budget says, until it is unpinned or unloaded.",
    ),
    Route(
        "POST",
        "/v1/models/{id}/unpin",
        models.unpin_model,
        Role.LOAD,
        "Let a model be evicted again",
        hostd.ModelInfo,
        body=Body.MAP,
    ),
    Route(
        "GET",
        "/v1/models/{id}/explain",
        models.explain_model,
        Role.READ,
        "Explain why a model is as it is",
        dict[str, Any],
    ),
    Route(
        "POST",
        "/v1/models/{id}/plan",
        models.plan_load,
        Role.LOAD,
        "Say what a load would do now",
        hostd.LoadPlan,
        (_PATH, *_HOW),
        Body.MAP,
        text="Nothing is loaded, evicted or reserved; but what lies at the path is looked at.",
    ),
    Route(
        "POST",
        "/v1/models/{id}/estimate",
        models.estimate_model_size,
        Role.LOAD,
        "Say what a model would take",
        hostd.SizeEstimate,
        (_PATH, _TYPE),
        Body.MAP,
    ),
    Route("GET", "/v1/models/{id}/size", models.get_model_size, Role.READ, "Say what a model takes", Size),
    Route(
        "GET",
        "/v1/models/{id}/logs",
        models.model_logs,
        Role.READ,
        "Show what a model printed",
        str,
        _query(_TAIL, _FOLLOW),
        forms=(TEXT, EVENTS),
        text="Text, a line for each; with follow events `line` and `note`, whose data is a line with its time.",
    ),
    Route(
        "GET",
        "/v1/models/{id}/examples",
        models.model_examples,
        Role.READ,
        "Say how each method may be called",
        dict[str, Example | None],
        text="By method, a call to try it with: of its author's example, else of what is known of its inputs, else of "
        "its type hints; null where none of them says enough.",
    ),
    Route(
        "GET",
        "/v1/models/{id}/stacks",
        models.model_stacks,
        Role.READ,
        "Show the stacks of a model's processes",
        dict[str, str],
        text="By pid; works while the model hangs, and does not disturb it.",
    ),
    Route(
        "PUT",
        "/v1/models/{id}/files",
        files.deploy_model,
        Role.DEPLOY,
        "Deploy a model's files and load them",
        hostd.ModelInfo,
        _query(*_HOW, _RETRIES, _LABELS, _REPLACE, _KEEP, _WAIT, _TIMEOUT),
        Body.FILES,
        text="All or nothing. Regular files and directories are taken, links and devices refused; an archive is "
        "uncompressed. A client that goes away while it sends has deployed nothing; once the host has all, it goes on.",
    ),
    Route(
        "DELETE",
        "/v1/models/{id}/files",
        files.undeploy_model,
        Role.DEPLOY,
        "Unload a model and remove its files",
        hostd.UnloadReport,
        _query(_TIMEOUT),
    ),
    Route(
        "POST",
        "/v1/models/sync",
        files.sync_local_models,
        Role.DEPLOY,
        "Bring the models in line with the models directory",
        hostd.SyncReport,
        (
            Parameter("wait", bool, "Whether to answer when all loads have ended.", default=False),
            Parameter("load", bool, "Whether to load what is new.", default=True),
            _TIMEOUT,
        ),
        Body.MAP,
    ),
    Route(
        "POST",
        "/v1/models/{id}/call/{method}",
        calls.call_method,
        Role.CALL,
        "Call a method of a model",
        Result,
        _CALL,
        Body.CALL,
        (JSON, MSGPACK, EVENTS),
        _VALUES,
    ),
    Route(
        "POST",
        "/v1/models/{id}/call",
        calls.call_model,
        Role.CALL,
        "Call the default method of a model",
        Result,
        _CALL,
        Body.CALL,
        (JSON, MSGPACK, EVENTS),
        _VALUES,
    ),
    Route(
        "GET",
        "/v1/events",
        host.events,
        Role.READ,
        "Follow what happens",
        hostd.Event,
        _query(_MODEL),
        forms=(EVENTS,),
        text="Events `model` and `worker`, numbered from 1 on each connection, from the comment `following` on. The "
        "host keeps no past ones: a request with Last-Event-ID gets an event `missed` first.",
    ),
    Route("GET", "/v1/host", host.host_info, Role.READ, "Show the host", hostd.HostInfo),
    Route(
        "GET",
        "/v1/watch",
        host.watch,
        Role.READ,
        "Follow how all models are",
        hostd.Change,
        forms=(EVENTS,),
        text="Events `snapshot`, `changed`, `removed` and `lost`; the id is the number of the change. A snapshot "
        "has all models: it comes first, and again when the host has been lost or has started again.",
    ),
    Route("GET", "/v1/host/summary", host.host_summary, Role.READ, "Show the host in short", hostd.HostSummary),
    Route("GET", "/v1/host/memory", host.memory_info, Role.READ, "Show the memory", hostd.MemoryInfo),
    Route("GET", "/v1/host/templates", host.templates_info, Role.READ, "Show the templates", hostd.TemplatesInfo),
    Route("GET", "/v1/host/settings", host.host_settings, Role.ADMIN, "Show the settings in force", dict[str, Any]),
    Route(
        "POST",
        "/v1/host/reload-config",
        host.reload_config,
        Role.ADMIN,
        "Have the host read its configuration file again",
        Reloaded,
        body=Body.MAP,
    ),
    Route("GET", "/v1/me", described.me, Role.NONE, "Say what whoever asks may do", Caller),
    Route("GET", "/v1/openapi.json", described.openapi, Role.READ, "Describe all of this for programs", dict[str, Any]),
    Route("GET", "/v1/docs", described.docs, Role.READ, "Describe all of this for people", str, forms=(HTML,)),
)
