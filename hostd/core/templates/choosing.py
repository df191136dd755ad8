"""Templates: which processes with imported libraries there are, and which loads are forked from one.

Rules
1. A load is forked from the template of its kind, from the bare one if nothing is known of its kind, and is started
   afresh where its settings say so, or where its content has failed in a child and succeeded afresh.
2. A template is started when a load wants one. The load waits for it: to import takes a template as long as a fresh
   worker. What usually was wanted is warmed after the start of the host.
3. What to import is learned from loads. While the first of a kind is under way the next ones wait for what it shows,
   for `HOLD_S`: on the cores that it leaves they would import the same.
4. A load of which the forked worker dies, hangs, or says that it cannot work in a forked process, is started afresh at
   once: so a template is never the reason of a failure.
5. A template counts against the budget. One without living workers gives its memory back before any model does; others
   would give back nothing, because their workers have the pages.
6. A template that a library makes unfit to be forked is given up, and the next one does without that library.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from hostd.core.bookkeeping.recent import Recent
from hostd.core.bookkeeping.templates import Base, Kind, Learned, Template, TemplateId, TemplateState
from hostd.core.deadlines import TemplateTimer
from hostd.core.effects import EndTemplate, Origination, RememberImports, StartTemplate
from hostd.core.lifecycle import ALIVE, WorkerState
from hostd.core.templates.faults import Faults
from hostd.core.templates.kinds import MOST_MODULES, kind_of, learnable
from hostd.records import TemplateInfo, TemplatesInfo

if TYPE_CHECKING:
    from hostd.core.events import (
        ImportsRecalled,
        LoadingSpec,
        TemplateEnded,
        TemplateReady,
        WorkerImported,
        WorkerSpawned,
    )
    from hostd.core.happenings import LoadEnded, UnloadEnded
    from hostd.core.memory.charges import Charges
    from hostd.core.models import Load, Model, Worker
    from hostd.core.registry import Registry

HOLD_S: Final = 5.0
"""How long loads wait for what the first of their kind shows. Most take less; one that takes longer does so for its own
sake, and the others may as well."""

WARM_S: Final = 20.0
WARM_TIMES: Final = 10
"""How long imports may take at least, on a busy machine, and how often what a load took; what takes longer hangs."""

IDLE_S: Final = 600.0
"""How long a template stays that has no living worker and that no load wants. Its memory is a model's, its loss an
import."""

MOST: Final = 8
"""Templates at the same time, the bare ones included; an environment or a content each, they would grow without end."""

_MOST_KINDS: Final = 256

_NONE: Final = "there is no template for it"

_OVER: Final = (TemplateState.ENDING, TemplateState.GONE)
_TIMED: Final = (TemplateState.LEARNING, TemplateState.WARMING, TemplateState.READY)

_LACKING: Final = 20
_LACKED: Final = 2
"""So many modules more than a template has, seen by so many loads, are worth another template in its place."""


class Choosing:
    """The decisions about templates."""

    def __init__(self, registry: Registry, charges: Charges) -> None:
        self._registry = registry
        self._charges = charges
        self._known: Recent[Kind, Learned] = Recent(_MOST_KINDS)
        self.faults = Faults()
        self._count = self._forks = self._starts = 0

    # Loads

    def origin_of(self, load: Load) -> Origination:
        """Decide how the worker of a load that starts comes into being; a template that it needs is started."""
        why_fresh = self._why_fresh(load)
        if why_fresh is not None:
            return Origination(None, why_fresh)
        kind = kind_of(load.model)
        template = self._wanted(kind, load.model)
        if template is None:
            return Origination(None, _NONE)
        template.used_s = self._registry.now
        patience_s = min(HOLD_S + 2 * self._load_s(kind), self._registry.config.spawn_timeout_s / 2)
        wait_s = max(0.0, template.began_s + patience_s - self._registry.now)
        return Origination(template.id, wait_s=wait_s, is_learning=template.state is TemplateState.LEARNING)

    def spawned(self, worker: Worker, event: WorkerSpawned) -> None:
        """Take note of how a worker came into being."""
        template = self._registry.templates.get(event.template_id) if event.template_id is not None else None
        worker.template, worker.why_fresh = template, event.why_fresh
        if template is None:
            self._starts += 1
        else:
            template.forks += 1
            self._forks += 1
            self.faults.worked(template)

    def imported(self, worker: Worker, event: WorkerImported) -> None:
        """Learn from a load what its kind imports, once."""
        if worker.state is not WorkerState.LOADING or worker.has_taught or self._registry.config.templates != "auto":
            return
        worker.has_taught = True
        kind = kind_of(worker.model)
        known = self._known.get(kind) or Learned()
        had = worker.template.modules if worker.template is not None else ()
        all_modules = tuple(dict.fromkeys((*known.modules, *had, *learnable(event.modules))))[:MOST_MODULES]
        known.lacked += bool(had) and len(event.modules) >= _LACKING
        known.loads += 1
        if known.load_s == 0.0:
            known.load_s = self._registry.now - worker.started_s
        is_news = all_modules != known.modules
        known.modules = all_modules
        self._known[kind] = known
        if is_news or known.loads == 2:
            self._remember(kind, known)
        for template in self._of_kind(kind, TemplateState.LEARNING):
            if self._has_room_for(template):
                self._start(template, known.modules)
            else:
                self._end(template, "there is no memory for it")

    def may_fork(self, load: Load) -> bool:
        """Say whether the worker of a load may be a template's child."""
        return self._why_fresh(load) is None

    # Templates

    def recalled(self, event: ImportsRecalled) -> None:
        """Take what loads have imported that earlier hosts have seen; the usual one is warmed."""
        for kind, learned in event.known:
            self._known[kind] = learned
        if event.is_bare_begun and self._there(None, Base()) is None:
            self._start(self._registered(None, Base()), ())  # whether or not there is room: it has begun
        if event.usual is not None and self._registry.config.templates == "auto":
            self._wanted(event.usual)

    def ready(self, event: TemplateReady) -> None:
        """Take a template that has imported all of its modules, and end the one in the place of which it comes."""
        template = self._registry.templates.get(event.template_id)
        if template is None or template.state is not TemplateState.WARMING:
            return
        template.state, template.pid, template.held_bytes = TemplateState.READY, event.pid, event.held_bytes
        template.import_s = event.import_s
        known = None if template.kind is None else self._known.get(template.kind)
        if template.kind is not None and known is not None and known.held_bytes != event.held_bytes:
            known.held_bytes = event.held_bytes
            self._remember(template.kind, known)
        self._registry.timers.set(TemplateTimer(template.id), self._registry.now + IDLE_S)
        for older in self._of_kind(template.kind, TemplateState.READY, base=template.base):
            if older is not template:
                older.state, older.reason = TemplateState.RETIRED, "another one that imports more has taken its place"
        self._tidy_up()
        self._registry.headroom_changed()

    def ended(self, event: TemplateEnded) -> None:
        """Take note of a template that has no process any more; what a library made unfit is started without it."""
        registry = self._registry
        template = registry.templates.get(event.template_id)
        if template is None:
            return
        registry.timers.cancel(TemplateTimer(template.id))
        registry.headroom_changed()
        is_failure = bool(event.module) or template.state is TemplateState.WARMING or template.forks == 0
        template.state, template.pid, template.reason = TemplateState.GONE, None, event.reason
        self._tidy_up()
        if event.is_stale:
            self.faults.forgive(template.base)
        elif event.module:
            self.faults.leave_out(template.base, event.module, event.reason)
        if is_failure and not event.is_stale:
            self.faults.failed(template)
        if event.module and template.kind is not None:
            self._wanted(template.kind)

    def expire(self, key: TemplateTimer) -> None:
        """End a template that hangs, that waits for nothing, or that nobody needs."""
        template = self._registry.templates[key.template_id]
        now = self._registry.now
        if template.state is TemplateState.LEARNING:
            self._end(template, "the load that was to show what to import takes too long")
        elif template.state is TemplateState.WARMING:
            self._end(template, f"its imports took more than {now - template.began_s:.3g} s", is_hanging=True)
        elif self._workers_of(template) or now - template.used_s < IDLE_S:
            self._registry.timers.set(key, max(now + IDLE_S / 10, template.used_s + IDLE_S))
        else:
            self._end(template, f"nobody has needed it for {IDLE_S:g} s")

    def unload_ended(self, _: UnloadEnded) -> None:
        """Let go of templates that only the workers have kept which are gone now."""
        self._tidy_up()

    def load_ended(self, what: LoadEnded) -> None:
        """Let loads go on that wait for what another shows, if it has ended without."""
        self._tidy_up()
        if what.model.spec is None or what.error is None:
            return
        kind = kind_of(what.model)
        if kind not in self._known:
            for template in self._of_kind(kind, TemplateState.LEARNING):
                self._end(template, "the load that was to show what to import has failed")

    def give_way(self, short_bytes: int) -> None:
        """End templates that hold memory and have no living worker, until so much is free."""
        freed_bytes = 0
        for template in sorted(self._charges.unused_templates(), key=self._worth):
            if freed_bytes >= short_bytes:
                break
            freed_bytes += template.held_bytes
            self._end(template, "its memory is needed for a model")

    def stop(self) -> None:
        """End all; the host is shutting down."""
        for template in list(self._registry.templates.values()):
            if template.state not in _OVER:
                self._end(template, "the host is shutting down")

    def describe(self) -> TemplatesInfo:
        """Return the public record of all templates."""
        registry = self._registry
        workers = Counter(worker.template for worker in registry.workers.values())
        config = registry.config
        return TemplatesInfo(
            tuple(
                TemplateInfo(
                    id=template.id,
                    pid=template.pid,
                    state=template.state.value,
                    python=template.base.python or config.python or config.own_python,
                    env=dict(template.base.env),
                    libraries=template.libraries,
                    modules=len(template.modules),
                    held_bytes=template.held_bytes,
                    forks=template.forks,
                    workers=workers[template],
                    import_s=template.import_s,
                    used_s=template.used_s + registry.wall_offset_s,
                    reason=template.reason,
                )
                for template in registry.templates.values()
            ),
            self.faults.packages(),
            self.faults.contents(),
            self._forks,
            self._starts,
        )

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        timers = self._registry.timers
        return [
            f"{template!r} is {template.state.value} and nothing ends it"
            for template in self._registry.templates.values()
            if template.state in _TIMED and TemplateTimer(template.id) not in timers
        ]

    # Steps

    def _why_fresh(self, load: Load) -> str | None:
        """Return why a load is not forked; None if it may be."""
        model, config = load.model, self._registry.config
        if config.templates == "off":
            return ""
        if load.is_fresh:
            return load.fresh_because
        if cast("LoadingSpec", model.spec).is_isolated:
            return "isolation: fresh"
        return self.faults.why_fresh(model)

    def _wanted(self, kind: Kind, model: Model | None = None) -> Template | None:
        """Return the template for loads of a kind, which is started if there is none; None: they go without.

        `model` is what is loaded, if it is for a load.
        """
        listed = self._registry.config.templates
        if isinstance(listed, tuple):
            return self._there(None, kind.base) or self._new(None, kind.base, listed)
        known = self._known.get(kind)
        if known is not None and len(known.modules) >= _LACKING:
            there = self._there(kind, kind.base) or self._alike(kind.base, known.modules)
            if there is not None:
                self._renew_if_lacking(there, known)
                return there
            return self._new(kind, kind.base, known.modules)
        if known is None and model is not None and self._is_being_learned(kind, model):
            return self._there(kind, kind.base) or self._learning(kind)
        # An environment of its own is mostly that of one model: a bare template would save nobody anything.
        return self._there(None, kind.base) or (None if kind.base.env else self._new(None, kind.base, ()))

    def _renew_if_lacking(self, template: Template, known: Learned) -> None:
        lacking = set(self.faults.safe(template.base, known.modules)) - set(template.modules)
        is_alone = len(self._of_kind(template.kind, base=template.base)) == 1
        if template.state is TemplateState.READY and is_alone and known.lacked >= _LACKED and len(lacking) >= _LACKING:
            known.lacked = 0
            self._new(template.kind, template.base, known.modules)

    def _is_being_learned(self, kind: Kind, model: Model) -> bool:
        """Say whether another model of a kind is being loaded."""
        workers = self._registry.workers.values()
        loading = (worker.model for worker in workers if worker.loaded_s is None and worker.state in ALIVE)
        return any(other is not model and other.spec is not None and kind_of(other) == kind for other in loading)

    def _there(self, kind: Kind | None, base: Base) -> Template | None:
        """Return the template of a kind, one that is ready before others."""
        order = (TemplateState.READY, TemplateState.WARMING, TemplateState.LEARNING)
        found = [each for each in self._of_kind(kind, base=base) if each.state in order]
        return min(found, key=lambda each: order.index(each.state), default=None)

    def _alike(self, base: Base, modules: tuple[str, ...]) -> Template | None:
        """Return a template of another kind that imports the same."""
        wanted = set(self.faults.safe(base, modules))
        alike = (each for each in self._registry.templates.values() if each.state in _TIMED and each.base == base)
        return next((each for each in alike if each.modules and set(each.modules) == wanted), None)

    def _of_kind(
        self, kind: Kind | None, state: TemplateState | None = None, *, base: Base | None = None
    ) -> list[Template]:
        return [
            each
            for each in self._registry.templates.values()
            if each.kind == kind and (base is None or each.base == base) and (state is None or each.state is state)
        ]

    def _learning(self, kind: Kind) -> Template:
        template = self._registered(kind, kind.base)
        self._registry.timers.set(TemplateTimer(template.id), self._registry.now + HOLD_S)
        return template

    def _new(self, kind: Kind | None, base: Base, modules: tuple[str, ...]) -> Template | None:
        if self.faults.is_given_up(kind, base) or self._registry.is_stopping:
            return None
        template = self._registered(kind, base)
        if not self._has_room_for(template):
            del self._registry.templates[template.id]
            return None
        self._start(template, modules)
        return template

    def _has_room_for(self, template: Template) -> bool:
        """Say whether the budget has room for a template, as far as is known what it takes."""
        known = None if template.kind is None else self._known.get(template.kind)
        expected_bytes = 0 if known is None else known.held_bytes
        template.held_bytes = expected_bytes or self._registry.config.baseline_bytes
        budget_bytes = self._registry.config.budget_bytes
        return budget_bytes is None or self._charges.headroom(budget_bytes).free_bytes >= 0

    def _registered(self, kind: Kind | None, base: Base) -> Template:
        self._count += 1
        template = Template(TemplateId(self._count), base, kind, self._registry.now)
        template.used_s = self._registry.now
        self._registry.templates[template.id] = template
        return template

    def _load_s(self, kind: Kind | None) -> float:
        known = None if kind is None else self._known.get(kind)
        return 0.0 if known is None else known.load_s

    def _remember(self, kind: Kind, known: Learned) -> None:
        self._registry.effects.append(RememberImports(kind, replace(known)))

    def _start(self, template: Template, modules: tuple[str, ...]) -> None:
        template.modules, template.state = self.faults.safe(template.base, modules), TemplateState.WARMING
        template.began_s = self._registry.now
        warm_s = max(WARM_S, WARM_TIMES * self._load_s(template.kind))
        self._registry.timers.set(TemplateTimer(template.id), self._registry.now + warm_s)
        self._registry.effects.append(StartTemplate(template.id, template.base, template.modules))

    def _end(self, template: Template, reason: str, *, is_hanging: bool = False) -> None:
        self._registry.headroom_changed()
        self._registry.timers.cancel(TemplateTimer(template.id))
        template.state, template.reason = TemplateState.ENDING, reason
        self._registry.effects.append(EndTemplate(template.id, reason, is_hanging))

    def _workers_of(self, template: Template) -> list[Worker]:
        return [worker for worker in self._registry.workers.values() if worker.template is template]

    def _worth(self, template: Template) -> float:
        """Return what keeping a template is worth: seconds saved per byte and idle second (as `eviction_score`)."""
        idle_s = max(self._registry.now - template.used_s, 1e-6)
        return max(template.import_s, 1e-6) * (1 + template.forks) / (max(template.held_bytes, 1) * idle_s)

    def _tidy_up(self) -> None:
        """End or forget templates that their workers do not need any more, and those that are too many."""
        used = {worker.template for worker in self._registry.workers.values()}
        for template in [each for each in self._registry.templates.values() if each not in used]:
            if template.state is TemplateState.RETIRED:
                self._end(template, template.reason)
            elif template.state is TemplateState.GONE:
                del self._registry.templates[template.id]
        there = [each for each in self._registry.templates.values() if each.state not in _OVER]
        for template in sorted(self._charges.unused_templates(), key=self._worth)[: max(0, len(there) - MOST)]:
            self._end(template, f"there are more than {MOST} templates")
