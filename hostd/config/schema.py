"""What the settings mean, out of their docstrings: as the JSON schema of the configuration file, and as such a file.

pydantic can take the docstrings itself (`use_attribute_docstrings`), but reads and parses the source for it whenever
the classes are made: 10 ms at every start, measured, for what only this module needs.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import TYPE_CHECKING, Any, cast

import yaml
from pydantic import BaseModel

from hostd.config import preload
from hostd.config import settings as config
from hostd.config.preload import PreloadEntry
from hostd.config.settings import HostConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HEAD = (
    "Every setting of hostd, with its default. A file needs only those that differ. A setting behind a # without a "
    "blank is not set. Variables (HOSTD_WORKERS__PYTHON) and arguments (--set workers.python=...) win over the file."
)
_PLUGIN = ("#  default:", "#    type: package.module:attribute", "#    config: {}")
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_INDENT = "  "


def config_schema() -> dict[str, Any]:
    """Return the schema; every setting has a `description`, with its unit and the reason for its default."""
    schema = HostConfig.model_json_schema()
    explained = _docstrings()
    for section, described in {HostConfig.__name__: schema, **schema["$defs"]}.items():
        for name, setting in described["properties"].items():
            if name in explained[section]:
                setting["description"] = explained[section][name]
    # Their defaults depend on the environment, so they are none in the model; a file need not name them.
    schema.pop("required")
    entry = schema["$defs"][PreloadEntry.__name__]
    del entry["properties"]["problem"]
    # A path alone will do, and nothing for what lies in the models directory.
    forms = [schema["properties"]["preload"]["additionalProperties"], {"type": "string"}, {"type": "null"}]
    schema["properties"]["preload"]["additionalProperties"] = {"anyOf": forms}
    return {"$schema": _DIALECT, **schema}


def _docstrings() -> dict[str, dict[str, str]]:
    """Return what is written below each setting, by section and name, as one line."""
    found: dict[str, dict[str, str]] = {}
    for module in (config, preload):
        for section in ast.parse(inspect.getsource(module)).body:
            if isinstance(section, ast.ClassDef):
                found[section.name] = dict(_explained(section))
    return found


def _explained(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for setting, below in itertools.pairwise(section.body):
        if isinstance(setting, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield ast.unparse(setting.target), " ".join(str(below.value.value).split())


def commented_yaml(width: int = 80) -> str:
    """Return the configuration file that sets everything to its default, with what each setting means above it."""
    explained, described = _docstrings(), HostConfig.model_json_schema()
    lines = [*_comment(_HEAD, width), ""]
    for name, field in HostConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [*_comment(" ".join((section.__doc__ or "").split()), width), f"{name}:"]
            properties = described["$defs"][section.__name__]["properties"]
            for inner, setting in section.model_fields.items():
                about = explained[section.__name__].get(inner, "")
                below = _setting(inner, setting.default, about, properties[inner], width - len(_INDENT))
                lines += [*(f"{_INDENT}{line}" for line in below), ""]
        else:
            default = None if field.is_required() else field.default
            about = explained[HostConfig.__name__].get(name, "")
            lines += [*_setting(name, default, about, described["properties"][name], width), ""]
    return "\n".join(lines)


def _setting(name: str, default: object, about: str, described: dict[str, Any], width: int) -> list[str]:
    choices = described.get("enum")
    lines = _comment(f"{about} One of: {', '.join(choices)}." if choices else about, width)
    if default == {} and "patternProperties" in described:
        return [*lines, f"#{name}:", *_PLUGIN]
    is_size = isinstance(default, int) and {"type": "string"} in described.get("anyOf", ())
    value = default if default is None or not is_size else _size(cast("int", default))
    text = yaml.safe_dump({name: value}, default_flow_style=True, width=10_000).strip()[1:-1]
    return [*lines, f"#{name}:" if default is None else text]


def _size(size_bytes: int) -> int | str:
    return next((f"{size_bytes // unit}{name}" for unit, name in _UNITS if size_bytes % unit == 0), size_bytes)


def _comment(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
