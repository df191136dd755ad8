"""The JSON schema of the configuration file, with what the settings' docstrings say.

pydantic can take the docstrings itself (`use_attribute_docstrings`), but reads and parses the source for it whenever
the classes are made: 10 ms at every start, measured, for what only this module needs.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from typing import TYPE_CHECKING, Any

from hostd import config
from hostd.config import HostConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


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
    return {"$schema": _DIALECT, **schema}


def _docstrings() -> dict[str, dict[str, str]]:
    """Return what is written below each setting, by section and name, as one line."""
    found: dict[str, dict[str, str]] = {}
    for section in ast.parse(inspect.getsource(config)).body:
        if isinstance(section, ast.ClassDef):
            found[section.name] = dict(_explained(section))
    return found


def _explained(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for setting, below in itertools.pairwise(section.body):
        if isinstance(setting, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield ast.unparse(setting.target), " ".join(str(below.value.value).split())
