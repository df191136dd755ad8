"""A driver of a core with templates: what they and their workers do, each in one short call."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from driver import SPEC, Driver, memory_of
from memory_driver import BUDGETED
from outside import Stage
from world_of_templates import modules_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import TemplateId

if TYPE_CHECKING:
    from hostd.core.config import CoreConfig

SKLEARN = SPEC._replace(loader="sklearn")
AUTO = dataclasses.replace(BUDGETED, templates="auto", budget_bytes=None)


class TemplateDriver(Driver):
    """A core, and templates around it that hold 2,000 bytes."""

    def __init__(self, config: CoreConfig = AUTO) -> None:
        super().__init__(config)

    def order(self, model_id: str, spec: ev.LoadingSpec = SKLEARN) -> fx.SpawnWorker:
        """Have a model found, and return the order for its worker."""
        self.load(model_id)
        self.finds.sort(key=lambda find: find.model_id == model_id)
        self.found(spec)
        return self.spawn_order()

    def spawn_order(self) -> fx.SpawnWorker:
        """Return the order for a worker that the last event had."""
        (effect,) = self.effects_of(fx.SpawnWorker)
        return effect

    def ends(self) -> list[TemplateId]:
        """Return the templates that the last event had ended."""
        return [effect.template_id for effect in self.effects_of(fx.EndTemplate)]

    def started_templates(self) -> list[tuple[TemplateId, tuple[str, ...]]]:
        """Return the templates that the last event had started, with what they import."""
        return [(effect.template_id, effect.modules) for effect in self.effects_of(fx.StartTemplate)]

    def warm(self, template_id: int, held_bytes: int = 2000) -> None:
        """Let a template be ready."""
        self.templates[TemplateId(template_id)] = Stage.RUNNING
        self.feed(ev.TemplateReady(TemplateId(template_id), 9000 + template_id, 0.5, held_bytes))

    def over(self, template_id: int, reason: str = "its process has ended", module: str = "") -> None:
        """Let one end."""
        self.end_template(TemplateId(template_id), reason, module)

    def forked(self, order: fx.SpawnWorker) -> None:
        """Let a worker be forked as it was ordered, and say hello."""
        self.spawned_from(order)
        self.greeted(order.worker_id)

    def spawned_from(self, order: fx.SpawnWorker) -> None:
        """Let it be known that a worker was forked as it was ordered."""
        self.processes[order.worker_id].stage = Stage.RUNNING
        self.feed(ev.WorkerSpawned(order.worker_id, 5000 + order.worker_id, order.origination.template_id))

    def fresh(self, order: fx.SpawnWorker, why: str = "its template has ended") -> None:
        """Let a worker be started afresh, and say hello."""
        self.processes[order.worker_id].stage = Stage.RUNNING
        self.feed(ev.WorkerSpawned(order.worker_id, 5000 + order.worker_id, None, why))
        self.greeted(order.worker_id)

    def ready_by(self, order: fx.SpawnWorker, *libraries: str, charge_bytes: int = 1000) -> None:
        """Let a load be done that imports these libraries."""
        self.feed(ev.WorkerImported(order.worker_id, modules_of(*libraries)))
        self.loaded(order.worker_id)
        self.measured(order.worker_id, memory=memory_of(2 * charge_bytes))

    def learn(self, *libraries: str, spec: ev.LoadingSpec = SKLEARN, model_id: str = "first") -> None:
        """Load a first model of a kind, from the bare template."""
        order = self.order(model_id, spec)
        bare = order.origination.template_id
        assert bare is not None
        if self.templates[bare] is Stage.ORDERED:
            self.warm(bare)
        self.forked(order)
        self.ready_by(order, *libraries)


def failed(host, order, error):
    """Have a load fail with this in a child of a template."""
    host.forked(order)
    host.not_loaded(error, order.worker_id)
    host.gone(order.worker_id)
