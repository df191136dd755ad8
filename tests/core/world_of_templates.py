"""A world with templates: they import, fail, die and are ended at any time, and loads say what they import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outside import Stage
from world import World
from world_of_files import N

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import Base, Kind, Learned, TemplateState

if TYPE_CHECKING:
    from hostd.core.bookkeeping.templates import TemplateId

MANY = 30
"""Modules of a library that is worth a template."""

MOVES_OF_TEMPLATES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "import_all": {"n": N, "how": ("ready", "ready", "ready", "unsafe", "died"), "held_bytes": (100, 2000)},
    "kill_template": {"n": N},
    "obey": {"n": N},
    "learn": {"n": N, "libraries": (("a",), ("a",), ("a", "b"), ())},
    "recall": {"loads": (1, 5), "loader": ("python", "sklearn")},
}


def modules_of(*libraries: str) -> tuple[str, ...]:
    """Return the modules of libraries, too many of each to be imported by every worker anew."""
    return tuple(f"{name}.m{number}" if number else name for name in libraries for number in range(MANY))


class WorldOfTemplates(World):
    """A world in which workers are forked."""

    def __init__(self, *, is_lazy: bool, is_tight: bool = False, may_grow: bool = False) -> None:
        super().__init__(is_lazy=is_lazy, is_tight=is_tight, may_grow=may_grow, templates="auto")

    def import_all(self, n: int, how: str, held_bytes: int) -> None:
        """Let a template that imports be ready, or not."""
        template_id = self._pick(n, self._in(Stage.ORDERED))
        if template_id is None:
            return
        if how == "ready" and template_id not in self.ending:
            expected_bytes = self.registry.templates[template_id].held_bytes
            held_bytes = held_bytes if self.may_grow else min(held_bytes, expected_bytes)
            self.templates[template_id] = Stage.RUNNING
            self.feed(ev.TemplateReady(template_id, 9000 + template_id, 0.5, held_bytes))
        else:
            module = "a.m3" if how == "unsafe" else ""
            self.end_template(template_id, f"it {how}", module)

    def kill_template(self, n: int) -> None:
        """Let one end by itself."""
        template_id = self._pick(n, self._in(Stage.RUNNING))
        if template_id is not None:
            self.end_template(template_id, "its process has ended")

    def obey(self, n: int) -> None:
        """Let one end that was told to."""
        template_id = self._pick(n, sorted(self.ending))
        if template_id is not None:
            self.end_template(template_id, "it was told to")

    def learn(self, n: int, libraries: tuple[str, ...]) -> None:
        """Let a worker say what its load has imported."""
        process = self._pick_process(n, lambda p: p.is_reading())
        if process is not None:
            self.feed(ev.WorkerImported(process.id, modules_of(*libraries)))

    def recall(self, loads: int, loader: str) -> None:
        """Let the host hear what earlier ones have learned."""
        learned, kind = Learned(modules_of("a"), loads, 1.0), Kind(Base(), loader)
        self.feed(ev.ImportsRecalled(((kind, learned),), kind if loads > 1 else None))

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        """See also that each template is one of the core's."""
        effects = super().feed(event)
        known = self.registry.templates
        assert {id for id, stage in self.templates.items() if stage is not Stage.GONE} <= set(known)
        states = {id: template.state for id, template in known.items()}
        assert {id for id, state in states.items() if state is TemplateState.ENDING} == self.ending
        assert all(self.templates[id] is Stage.RUNNING for id, state in states.items() if state is TemplateState.READY)
        return effects

    def _in(self, stage: Stage) -> list[TemplateId]:
        return sorted(id for id, found in self.templates.items() if found is stage)
