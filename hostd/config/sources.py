"""Where the settings of a host come from: arguments, environment, file.

Covers reading and merging them, and saying which source a value came from, right or wrong. Does not cover the settings
themselves (`hostd.config.settings`).
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from hostd.config.model_yaml import described
from hostd.config.outright import OTHER_VARIABLES, PREFIX
from hostd.config.preload import is_short
from hostd.config.settings import HostConfig, PluginConfig, PluginTable
from hostd.hints import nearest
from hostd.paths import expanded
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

_DELIMITER = "__"
DEFAULT = "default"
"""The origin of a setting that no source gives."""
_TABLES = tuple(name for name, field in HostConfig.model_fields.items() if field.annotation == PluginTable)
_NONE_IS_A_VALUE = (("models", "poll_period_s"), ("models", "write_quiet_period_s"))
_PATHS = (("models", "dir"), ("workers", "python"), ("runtime_dir",), ("state_dir",))
_PRELOAD = "preload"
_OTHERS = "fronts__others"


class _Variables(HostConfig, BaseSettings):
    """What `EnvSettingsSource` needs to know; no object of this class is ever made."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True, env_parse_none_str="null"
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
        return _variable_of(where) if self.label == PREFIX else self.label


@dataclass(frozen=True)
class Gathered:
    """A configuration and where it came from: `origins` has a phrase for each setting, by its dotted name."""

    config: HostConfig
    origins: Mapping[str, str]


def gather(arguments: Mapping[str, object], *, file: Path | None, environment: bool) -> Gathered:
    """Merge the sources, the strongest first, and validate the result; errors as `hostd.config.loading.load_config`."""
    sources = [Source("an argument", _spelt_out(_without_unset(arguments)))]
    if environment:
        sources.append(Source(PREFIX, _spelt_out(_read_environment())))
    if file is not None:
        sources.append(Source(str(file), _read_file(file)))
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged = _merge(merged, source.settings)
    config = checked(merged, sources)
    origins = {".".join(where): _origin(where, sources) or DEFAULT for where, _ in flat(config.model_dump())}
    return Gathered(config, origins)


def checked(settings: Mapping[str, Any], sources: Sequence[Source] = ()) -> HostConfig:
    """Return the configuration of these settings. Raises InvalidArgumentError with all that is wrong with them."""
    try:
        return HostConfig.model_validate(settings)
    except ValidationError as error:
        raise _explained(error, sources) from None


def flat(settings: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every setting with its keys from the top; an empty section of plugins is one setting."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, (*where, key))
        else:
            yield (*where, key), value


def _origin(where: tuple[str, ...], sources: Sequence[Source]) -> str | None:
    return next((phrase for source in sources if (phrase := source.origin(where))), None)


def _variable_of(where: tuple[str, ...]) -> str:
    # A variable can also hold a whole section as JSON.
    names = [_name_of(where[:depth]) for depth in range(len(where), 0, -1)]
    given = _variables()
    return next((name for name in names if name in given), names[0])


def _name_of(where: tuple[str, ...]) -> str:
    return PREFIX + _DELIMITER.join(where).upper()


def _variables() -> set[str]:
    # Any case will do, as pydantic-settings has it.
    return {variable.upper() for variable in os.environ}


def _explained(error: ValidationError, sources: Sequence[Source]) -> InvalidArgumentError:
    """Return one error that lists every problem with the setting, what was expected and where the value came from."""
    problems = [_problem(found, sources) for found in error.errors()]
    text = "\n  ".join(problems)
    head = "a setting is wrong: " if len(problems) == 1 else f"{len(problems)} settings are wrong:\n  "
    return InvalidArgumentError(head + text, details={"problems": problems})


def _problem(found: ErrorDetails, sources: Sequence[Source]) -> str:
    where = tuple(str(part) for part in found["loc"])
    name = ".".join(where) or "the configuration"
    origin = _origin(where, sources)
    given = f" (from {origin})" if origin else ""
    match found["type"]:
        case "extra_forbidden":
            return f"{name}{given}: no such setting; {nearest(where[-1], _known(where[:-1]))}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{name}{given} must be a mapping{_example(where)}, not {found['input']!r}"
        case "missing":
            origin = _origin(where[:-1], sources)
            return f"{'.'.join(where[:-1])}{f' (from {origin})' if origin else ''} lacks its {where[-1]!r}"
        case "value_error":
            return f"{name}{given}: {found['ctx']['error']}"
        case "string_pattern_mismatch":
            name = name.removesuffix(".[key]")
            return f"{name}{given}: at most 64 letters, digits, dots, dashes and underscores, not {found['input']!r}"
        case _:
            expected = found["msg"][:1].lower() + found["msg"][1:]
            return f"{name}{given}: {expected}, not {found['input']!r}"


def _example(where: tuple[str, ...]) -> str:
    if where[0] == _PRELOAD:
        return " of ids, such as {greeter: /srv/greeter} or {greeter: {path: /srv/greeter, pin: true}}"
    if _DELIMITER.join(where) == _OTHERS:
        return " of names and addresses, such as {myfront: 9000}"
    if where[0] in _TABLES and len(where) == 1:
        return " of names, such as {default: {type: ...}}"
    return f" of settings, such as {{{known[0]}: ...}}" if (known := _known(where)) else " of names and values"


def _known(where: tuple[str, ...]) -> list[str]:
    """Return the settings that a section has, also that of one name in a table of plugins; none for a plain setting."""
    if not where:
        return list(HostConfig.model_fields)
    if where[0] in _TABLES:
        return list(PluginConfig.model_fields) if len(where) == 2 else []
    annotation = HostConfig.model_fields[where[0]].annotation if len(where) == 1 else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _read_environment() -> dict[str, Any]:
    _refuse_misspelt_variables()
    try:
        return read_texts(EnvSettingsSource(_Variables)(), lambda where: _name_of(where) in _variables())
    except ValueError:  # SettingsError is one, under a name that has moved between releases
        wrong = next(_sections_in_environment(), PREFIX)
        field = wrong.removeprefix(PREFIX).lower()
        example = (
            "ID__PATH"
            if field == _PRELOAD
            else f"DEFAULT{_DELIMITER}TYPE"
            if field in _TABLES
            else "NAME"
            if field == _OTHERS
            else next(iter(_known((field,))), "...").upper()
        )
        raise InvalidArgumentError(
            f"{wrong}: is a section, so its value must be JSON; set one setting of it with "
            f"{wrong}{_DELIMITER}{example}=..."
        ) from None


def read_texts(
    settings: Mapping[str, Any],
    is_text: Callable[[tuple[str, ...]], bool] = lambda where: True,  # noqa: ARG005 - of a command line all are
    where: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return settings of which those at `is_text` were given as text, with what plugins get of these read as JSON.

    The other settings know their types. Text that is no JSON stays as it is.
    """
    read: dict[str, Any] = {}
    for key, value in settings.items():
        here = (*where, key)
        if isinstance(value, dict):
            read[key] = read_texts(value, is_text, here)
        else:
            is_json = isinstance(value, str) and _is_of_plugin(here) and is_text(here)
            read[key] = _from_json(value) if is_json else value
    return read


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _sections_in_environment() -> Iterator[str]:
    for variable, value in os.environ.items():
        field = variable.removeprefix(PREFIX).lower()
        is_section = field in (*_TABLES, _PRELOAD, _OTHERS) or (field in HostConfig.model_fields and _known((field,)))
        if variable.startswith(PREFIX) and is_section and not value.lstrip().startswith("{"):
            yield variable


def _refuse_misspelt_variables() -> None:
    known = [PREFIX + field.upper() for field in HostConfig.model_fields]
    for variable in os.environ:
        head, delimiter, _ = variable.partition(_DELIMITER)
        if not variable.startswith(PREFIX) or head.upper() in known or variable in OTHER_VARIABLES:
            continue
        # Kubernetes sets variables such as HOSTD_SERVICE_PORT for a service called hostd; only what can be meant for us
        # is refused.
        if delimiter or difflib.get_close_matches(variable, [*known, *OTHER_VARIABLES], n=1, cutoff=0.85):
            hint = nearest(head, [*known, *OTHER_VARIABLES])
            raise InvalidArgumentError(f"{variable}: no such environment variable; {hint}")


def _read_file(file: Path) -> dict[str, Any]:
    content = ""
    try:
        content = file.read_text("utf-8")
        read = yaml.safe_load(content)
    except FileNotFoundError:
        raise NotFoundError(f"there is no configuration file {file}", details={"path": str(file)}) from None
    except yaml.YAMLError as error:
        line, column, words = described(error, content)
        raise InvalidArgumentError(
            f"the configuration file {file} cannot be read: line {line}, column {column}: {words}"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"the configuration file {file} cannot be read: {error}") from None
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise InvalidArgumentError(f"the configuration file {file} must be a mapping of settings, not {read!r:.80}")
    settings = {str(key): value for key, value in read.items() if value is not None}
    for where in _PATHS:
        _anchor(settings, where, file.absolute().parent)
    spelt_out = _spelt_out(settings)
    entries = spelt_out.get(_PRELOAD)
    for name in entries if isinstance(entries, dict) else ():
        _anchor(spelt_out, (_PRELOAD, name, "path"), file.absolute().parent)
    return spelt_out


def _spelt_out(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which what is declared has no short form: `greeter: /srv/greeter` is its path."""
    entries = settings.get(_PRELOAD)
    if not isinstance(entries, dict):
        return settings
    short = {name: {"path": entry} for name, entry in entries.items() if is_short(entry)}
    return {**settings, _PRELOAD: {**entries, **short}}


def _anchor(settings: dict[str, Any], where: tuple[str, ...], folder: Path) -> None:
    holder: Any = settings
    for key in where[:-1]:
        holder = holder.get(key)
        if not isinstance(holder, dict):
            return
    value = holder.get(where[-1])
    # A bare command name is looked up on PATH, so only what looks like a path is one.
    if isinstance(value, str) and value and (where[-1] != "python" or "/" in value):
        holder[where[-1]] = str(folder / expanded(value))


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _without_unset(settings: Mapping[str, object], where: tuple[str, ...] = ()) -> dict[str, Any]:
    """Leave out what is None, which an argument is when it is not given, but for where None says something."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        here = (*where, key)
        if isinstance(value, dict) and not _is_of_plugin(here):
            kept[key] = _without_unset(value, here)
        elif value is not None or here in _NONE_IS_A_VALUE or where == (_PRELOAD,):
            kept[key] = value
    return kept


def _is_of_plugin(where: tuple[str, ...]) -> bool:
    """Say whether this is, or is below, the `config` of a plugin or the options of a model, which know it."""
    if len(where) <= 2:
        return False
    return (where[0] in _TABLES and where[2] == "config") or (where[0] == _PRELOAD and where[2] == "options")
