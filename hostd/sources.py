"""Where the settings of a host come from: arguments, environment, file.

Covers reading and merging them, and saying which source a wrong value came from. Does not cover the settings themselves
(`hostd.config`).
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from hostd.config import HostConfig
from hostd.naming import nearest
from workers.wire.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

_PREFIX = "HOSTD_"
_DELIMITER = "__"
# Read by clients and by the command line, not by a host.
_OTHER_VARIABLES = ("HOSTD_ENDPOINT", "HOSTD_CONFIG")
_PATHS = (("models", "dir"), ("workers", "python"), ("runtime_dir",), ("state_dir",))


class _Variables(HostConfig, BaseSettings):
    """What `EnvSettingsSource` needs to know; no object of this class is ever made."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True, env_parse_none_str="null"
    )


@dataclass(frozen=True)
class Source:
    """Settings from one place: `label` says which, `settings` has the shape of the file."""

    label: str
    settings: Mapping[str, Any]

    def origin(self, where: tuple[str, ...]) -> str | None:
        """Return a phrase for where the setting at `where` was given, None if it was not given here."""
        found: Any = self.settings
        for key in where:
            if not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        if self.label == _PREFIX:
            return _PREFIX + _DELIMITER.join(where).upper()
        return self.label


def gather(arguments: Mapping[str, object], *, file: Path | None, environment: bool) -> HostConfig:
    """Merge the sources, the strongest first, and validate the result; errors as `hostd.config.load_config`."""
    sources = [Source("an argument", _without_none(arguments))]
    if environment:
        sources.append(Source(_PREFIX, _read_environment()))
    if file is not None:
        sources.append(Source(str(file), _read_file(file)))
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged = _merge(merged, source.settings)
    try:
        return HostConfig.model_validate(merged)
    except ValidationError as error:
        raise explain(error, sources) from None


def explain(error: ValidationError, sources: list[Source]) -> InvalidArgumentError:
    """Return one error that lists every problem with the setting, what was expected and where the value came from."""
    problems = [_problem(found, sources) for found in error.errors()]
    text = "\n  ".join(problems)
    head = "a setting is wrong: " if len(problems) == 1 else f"{len(problems)} settings are wrong:\n  "
    return InvalidArgumentError(head + text, details={"problems": problems})


def _problem(found: ErrorDetails, sources: list[Source]) -> str:
    where = tuple(str(part) for part in found["loc"])
    name = ".".join(where) or "the configuration"
    origin = next((phrase for source in sources if (phrase := source.origin(where))), None)
    given = f" (from {origin})" if origin else ""
    match found["type"]:
        case "extra_forbidden":
            return f"{name}{given}: no such setting; {nearest(where[-1], _known(where[:-1]))}"
        case "model_type" | "model_attributes_type":
            example = _known(where)[0]
            return f"{name}{given}: must be a mapping of settings, such as {{{example}: ...}}, not {found['input']!r}"
        case "value_error":
            return f"{name}{given}: {found['ctx']['error']}"
        case "string_pattern_mismatch":
            return f"{name}{given}: at most 64 letters, digits, dots, dashes and underscores, not {found['input']!r}"
        case _:
            expected = found["msg"][:1].lower() + found["msg"][1:]
            return f"{name}{given}: {expected}, not {found['input']!r}"


def _known(section: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = HostConfig
    for key in section:
        annotation = model.model_fields[key].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _read_environment() -> dict[str, Any]:
    _refuse_misspelt_variables()
    try:
        return EnvSettingsSource(_Variables)()
    except ValueError:  # SettingsError is one, under a name that has moved between releases
        wrong = next(_sections_in_environment(), _PREFIX)
        field = wrong.removeprefix(_PREFIX).lower()
        example = _known((field,))[0] if field in HostConfig.model_fields else "..."
        raise InvalidArgumentError(
            f"{wrong}: is a section, so its value must be JSON; set one setting of it with "
            f"{wrong}{_DELIMITER}{example.upper()}=..."
        ) from None


def _sections_in_environment() -> Iterator[str]:
    for variable, value in os.environ.items():
        field = HostConfig.model_fields.get(variable.removeprefix(_PREFIX).lower())
        is_section = (
            field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        )
        if variable.startswith(_PREFIX) and is_section and not value.lstrip().startswith("{"):
            yield variable


def _refuse_misspelt_variables() -> None:
    known = [_PREFIX + field.upper() for field in HostConfig.model_fields]
    for variable in os.environ:
        head, delimiter, _ = variable.partition(_DELIMITER)
        if not variable.startswith(_PREFIX) or head.upper() in known or variable in _OTHER_VARIABLES:
            continue
        # Kubernetes sets variables such as HOSTD_SERVICE_PORT for a service called hostd; only what can be meant for us
        # is refused.
        if delimiter or difflib.get_close_matches(variable, [*known, *_OTHER_VARIABLES], n=1, cutoff=0.85):
            hint = nearest(head, [*known, *_OTHER_VARIABLES])
            raise InvalidArgumentError(f"{variable}: no such environment variable; {hint}")


def _read_file(file: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"there is no configuration file {file}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidArgumentError(f"the configuration file {file} cannot be read: {error}") from None
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise InvalidArgumentError(f"the configuration file {file} must be a mapping of settings, not {read!r:.80}")
    settings = {str(key): value for key, value in read.items() if value is not None}
    for where in _PATHS:
        _anchor(settings, where, file.absolute().parent)
    return settings


def _anchor(settings: dict[str, Any], where: tuple[str, ...], folder: Path) -> None:
    holder: Any = settings
    for key in where[:-1]:
        holder = holder.get(key)
        if not isinstance(holder, dict):
            return
    value = holder.get(where[-1])
    # A bare command name is looked up on PATH, so only what looks like a path is one.
    if isinstance(value, str) and (where[-1] != "python" or "/" in value):
        holder[where[-1]] = str(folder / Path(value).expanduser())


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _without_none(settings: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }
