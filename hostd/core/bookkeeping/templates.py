"""Books of templates: processes that have imported libraries, and fork workers.

A template has one interpreter and one environment (`Base`): what libraries read of it when they are imported is then
what a fresh worker's would read. What it imports was learned from loads of one `Kind`.
"""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, NewType

from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

TemplateId = NewType("TemplateId", int)


class Base(NamedTuple):
    """An interpreter (None: the host's own for workers), and what models' settings add to its environment."""

    python: str | None = None
    env: tuple[tuple[str, str], ...] = ()


class Kind(NamedTuple):
    """Loads that import the same: by one loader and initializer; of models with code of their own, from one `path`."""

    base: Base
    loader: str
    initializer: str = ""
    path: str = ""


class TemplateState(enum.Enum):
    """Where a template is in its life.

    LEARNING: the first load of its kind is under way, to show what to import. RETIRED: another has taken its place, and
    it stays for its workers. ENDING: its process is being ended. GONE: it has none, but workers have its pages still.
    """

    LEARNING = "LEARNING"
    WARMING = "WARMING"
    READY = "READY"
    RETIRED = "RETIRED"
    GONE = "GONE"
    ENDING = "ENDING"


@dataclass(eq=False)
class Template:
    """A template, from the decision to have one until its process is gone.

    `modules` are what it imports beyond what every worker needs, `kind` whose loads showed that (None: the bare one,
    which imports no more). `held_bytes` is what its process holds, or is expected to. `forks` counts its
    workers, `used_s` is when the last one was asked for. `import_s` is how long its imports took, `reason` why it ends.
    """

    id: TemplateId
    base: Base
    kind: Kind | None
    began_s: float
    modules: tuple[str, ...] = ()
    state: TemplateState = TemplateState.LEARNING
    pid: int | None = None
    held_bytes: int = 0
    forks: int = 0
    used_s: float = 0.0
    import_s: float = 0.0
    reason: str = ""

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages that it has imported, in this order."""
        return libraries_of(self.modules)


@dataclass(eq=False)
class Learned:
    """What loads of one kind import, and how often they were seen.

    `load_s` is what the first one took, `held_bytes` what a template of theirs takes, or they did. `lacked` counts the
    loads that imported more than their template had.
    """

    modules: tuple[str, ...] = ()
    loads: int = 0
    load_s: float = 0.0
    held_bytes: int = 0
    lacked: int = 0


def package_of(module: str) -> str:
    """Return the package that a module is of."""
    return module.partition(".")[0]


def libraries_of(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the packages that modules are of, in their order, but for the standard library and private helpers."""
    packages = dict.fromkeys(map(package_of, modules))
    own = sys.stdlib_module_names | {"hostd_workers"}
    return tuple(name for name in packages if name not in own and not name.startswith("_"))
