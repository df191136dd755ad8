"""Generate `hostd/config/table.py` from the settings, or `--check` that it is current.

What pydantic's classes know of plain settings, so that a start whose settings are plain does without pydantic.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator

from hostd.config import values
from hostd.config.preload import PreloadEntry
from hostd.config.settings import HostConfig, PluginTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

TABLE = Path(__file__).parents[1] / "hostd" / "config" / "table.py"
HEAD = '''# Generated from hostd/config/settings.py by .ci/settings_table.py: edit that one.
"""Every setting: its default, and for those that are plain how a value is read, so that pydantic is not needed for it.

`hostd.config.outright` reads values by it, and `hostd.config.received` knows by it what is a path.
"""

from __future__ import annotations

from typing import Any, Final

from hostd_workers.wire.light import NamedTuple


class Setting(NamedTuple):
    """One setting.

    `kind` is its type, "" if only pydantic can tell whether a value is right; `read` the function of
    `hostd.config.values` that takes the value before. `bounds` are what the value, or the length of a text, must be
    compared with, by the name of the comparison in `operator`; `choices` are what it may be, and `pattern` is what a
    text must match.
    """

    default: Any
    kind: str = ""
    read: str = ""
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    pattern: str = ""

    @property
    def is_path(self) -> bool:
        """Whether its values are paths."""
        return self.kind == "path"


'''
KINDS = {bool: "bool", int: "int", float: "float", str: "str", Path: "path"}
IN_OUTRIGHT = ("runtime_dir",)
"""Validators of these are called by `hostd.config.outright` as well."""


def table() -> str:
    """Return the source of the table."""
    lines = ["SETTINGS: Final[dict[str, Setting | dict[str, Setting]]] = {"]
    for name, field in HostConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [f"{name!r}: {{", *(f"{inner!r}: {found}," for inner, found in settings_of(section)), "},"]
    lines += [f"{name!r}: {found}," for name, found in settings_of(HostConfig)]
    tables = tuple(name for name, field in HostConfig.model_fields.items() if field.annotation == PluginTable)
    entry = {name: field.default for name, field in PreloadEntry.model_fields.items()}
    lines += ["}", f"TABLES: Final = {tables!r}", '"""Settings that are tables of plugins, by name."""']
    lines += [f"ENTRY: Final[dict[str, Any]] = {entry!r}", '"""What an entry of `preload` has that leaves all out."""']
    source = HEAD + "\n".join(lines) + "\n"
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TABLE), "-"]
    return subprocess.run(ruff, input=source, stdout=subprocess.PIPE, text=True, check=True).stdout


def settings_of(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a section that are no sections, each as source."""
    decorators = section.__pydantic_decorators__
    judged = {name for each in decorators.field_validators.values() for name in each.info.fields}
    for each in decorators.model_validators.values():
        if each.info.mode == "after":  # it looks at several settings at once
            judged.update(each.func.__code__.co_names)
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = None if field.is_required() else field.default
        default = float(default) if field.annotation is float else default  # as pydantic validates defaults, too
        is_plain = name not in judged or name in IN_OUTRIGHT
        yield name, f"Setting({default!r}{''.join(facts(field, is_plain=is_plain))})"


def facts(field: FieldInfo, *, is_plain: bool) -> Iterator[str]:
    """Yield what says how the setting is read, as arguments of a `Setting`; nothing where only pydantic can tell."""
    kind, metadata = field.annotation, list(field.metadata)
    if type(None) in (parts := get_args(kind)) and len(parts) == 2:  # an optional setting; None is what is not given
        kind = parts[0]
    if hasattr(kind, "__metadata__"):
        metadata += [part for each in kind.__metadata__ for part in getattr(each, "metadata", [each])]
        kind = get_args(kind)[0]
    if kind is Path:
        yield ", kind='path'"
    if not is_plain:
        return
    read = [each.func.__name__ for each in metadata if isinstance(each, BeforeValidator)]
    if any(not hasattr(values, name) for name in read) or len(read) > 1:
        return
    if kind in KINDS and kind is not Path:
        yield f", kind={KINDS[kind]!r}"
    elif read in (["share"], ["budget"]):
        yield ", kind='share'"
    elif get_origin(kind) is Literal:
        yield f", kind='str', choices={get_args(kind)!r}"
    elif kind is not Path or not any(
        isinstance(each, AfterValidator) and each.func is values.absolute for each in metadata
    ):
        return
    if read:
        yield f", read={read[0]!r}"
    bounds = [(name, getattr(each, name)) for each in metadata for name in ("gt", "ge", "le") if hasattr(each, name)]
    bounds += [("ge", each.min_length) for each in metadata if hasattr(each, "min_length")]
    if bounds:
        yield f", bounds={tuple(bounds)!r}"
    yield from (f", pattern={each.pattern!r}" for each in metadata if getattr(each, "pattern", None))


def main() -> None:
    """Write the table, or with `--check` end with an error if it is another one."""
    made = table()
    is_current = TABLE.exists() and TABLE.read_text("utf-8") == made
    if "--check" in sys.argv[1:]:
        if not is_current:
            sys.exit("hostd/config/table.py is not what the settings make; run .ci/settings_table.py")
    elif not is_current:
        TABLE.write_text(made, "utf-8")


if __name__ == "__main__":
    main()
