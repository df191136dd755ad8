"""Plugins of one host: finders, loaders, initializers and sizers, built in, configured and installed.

Covers which one is meant by a name, and with which configuration. Does not cover what they do (`hostd.finders`,
`hostd.sizers`; loaders and initializers are run by workers) or what a type may be (`hostd.plugins.types`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hostd import finders as built_in
from hostd.finders import DEFAULT_FINDER as DEFAULT
from hostd.finders import Finder, find_spec
from hostd.finders.protocol import ask
from hostd.plugins import types
from hostd.records import SizeEstimate
from hostd.sizers import DeclaredSizer, DirectorySizer, Sizer
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hostd.config.settings import HostConfig, PluginConfig
    from hostd.finders import ModelSpec

_MULTI = "multi"
_FINDER_TYPES: dict[str, Callable[..., Any]] = {
    "model_yaml": built_in.ModelYamlFinder,
    "mlflow": built_in.MlflowFinder,
    "files": built_in.FilesFinder,
    _MULTI: built_in.MultiFinder,
}
_SIZER_TYPES: dict[str, Callable[..., Any]] = {"directory": DirectorySizer, "declared": DeclaredSizer}


class _Chosen(NamedTuple):
    """What a worker gets: a name that it can resolve, and the configuration that this host has for it."""

    reference: str
    config: dict[str, Any]


class Plugins:
    """The plugins of a host; safe to be used by several threads."""

    def __init__(self, config: HostConfig) -> None:
        """Make the finders and sizers, and check the types of all plugins.

        Raises InvalidArgumentError for an unknown type and for a configuration that does not fit, with the setting's
        name; what a third party's module or class raises goes through.
        """
        self._has_foreign_python = config.workers.python is not None
        self._finders: dict[str, Finder] = {**built_in.FINDERS, **_finders(config.finders)}
        sizers = {name: _sizer(name, wanted) for name, wanted in config.sizers.items()}
        self._sizer = sizers.get(DEFAULT, DirectorySizer())
        self.sizer_type = config.sizers[DEFAULT].type if DEFAULT in sizers else "directory"
        """What the configuration calls the sizer that is asked."""
        is_foreign = self._has_foreign_python
        self._loaders = _checked(types.LOADERS, config.loaders, types.BUILT_IN_LOADERS, is_foreign=is_foreign)
        self._initializers = _checked(
            types.INITIALIZERS, config.initializers, types.BUILT_IN_INITIALIZERS, is_foreign=is_foreign
        )

    def find(
        self,
        model_id: str,
        path: str | None,
        *,
        finder: str | None = None,
        loader: str | None = None,
        initializer: str | None = None,
    ) -> ModelSpec:
        """Return what to load for a model, with a loader and an initializer that its worker can resolve.

        `finder`, `loader` and `initializer` are those that the load names; the latter two count for more than those of
        model.yaml, and these for more than the configured ones. Blocks on the disk: call it in a thread. Raises
        InvalidArgumentError for unknown plugins and unrecognised models, NotFoundError if nothing is at `path`, and
        what the finder raises.
        """
        default_loader = DEFAULT if DEFAULT in self._loaders else ""
        spec = find_spec(model_id, path, finder, finders=self._finders, default_loader=default_loader, loader=loader)
        its = self._choose(types.LOADERS, spec.loader, self._loaders, types.BUILT_IN_LOADERS, spec)
        configured = {f"options.{name}": f"{types.LOADERS}.{spec.loader}" for name in its.config}
        options = {**its.config, **spec.options}
        spec = replace(spec, loader=its.reference, options=options, origins={**configured, **spec.origins})
        named = initializer or spec.initializer or (DEFAULT if DEFAULT in self._initializers else None)
        if named is None:
            return spec
        chosen = self._choose(types.INITIALIZERS, named, self._initializers, types.BUILT_IN_INITIALIZERS, spec)
        # What model.yaml configures is its own initializer, and not another one that the load names instead.
        own = {} if initializer and initializer != spec.initializer else spec.initializer_config
        if initializer or not spec.initializer:
            origin = "the load" if initializer else f"{types.INITIALIZERS}.{DEFAULT}"
            spec = replace(spec, origins={**spec.origins, "initializer": origin})
        return replace(spec, initializer=chosen.reference, initializer_config={**chosen.config, **own})

    def recognises(self, model_id: str, path: str) -> bool:
        """Say whether the default finder knows what is at a path; a model that is wrong in some way is known.

        Blocks on the disk: call it in a thread.
        """
        try:
            return ask(self._finders[DEFAULT], model_id, path) is not None
        except BaseException:  # noqa: BLE001 - a finder may be anybody's code; its load will tell what is wrong
            return True

    def estimate(self, model_id: str, path: str, model_type: str) -> SizeEstimate:
        """Return what a model may take: what it declares, else what the sizer says, else its bytes times a factor.

        Blocks on the disk: call it in a thread. Raises NotFoundError if nothing is at `path`, and what the sizer
        raises.
        """
        declared = DeclaredSizer().estimate(model_id, path, model_type)
        if declared is not None:
            return SizeEstimate(declared, "declared")
        size_bytes: object = self._sizer.estimate(model_id, path, model_type)
        if size_bytes is None:
            size_bytes = DirectorySizer().estimate(model_id, path, model_type)
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 0:
            raise TypeError(f"{type(self._sizer).__name__}.estimate must return bytes or None, got {size_bytes!r:.200}")
        return SizeEstimate(size_bytes, "estimated")

    def _choose(
        self, section: str, name: str, configured: Mapping[str, _Chosen], known: tuple[str, ...], spec: ModelSpec
    ) -> _Chosen:
        if name in configured:
            return configured[name]
        found = types.reference(section, name, known)
        # Another interpreter has packages of its own, and its worker looks among these.
        if found is None and spec.python is None and not self._has_foreign_python:
            raise types.unknown(section, name, (*known, *configured))
        return _Chosen(found or name, {})


def _checked(
    section: str, wanted: Mapping[str, PluginConfig], known: tuple[str, ...], *, is_foreign: bool
) -> dict[str, _Chosen]:
    """Return the configured loaders or initializers; `is_foreign` if workers know packages that this host does not."""
    chosen = {}
    for name, plugin in wanted.items():
        with _told_of(section, name):
            found = types.reference(section, plugin.type, known)
            if found is None and not is_foreign:
                raise types.unknown(section, plugin.type, known)
            chosen[name] = _Chosen(found or plugin.type, plugin.config)
    return chosen


def _finders(wanted: Mapping[str, PluginConfig]) -> dict[str, Finder]:
    """Make the configured finders, those that others ask first."""
    made: dict[str, Finder] = {}

    def named(name: str, asking: tuple[str, ...]) -> Finder:
        if name in asking:
            raise InvalidArgumentError(f"it asks itself: {' asks '.join((*asking, name))}")
        if name in wanted:
            if name not in made:
                made[name] = configured(name, wanted[name], asking)
            return made[name]
        return built_in.FINDERS[name] if name in built_in.FINDERS else of_type(name, {})

    def configured(name: str, plugin: PluginConfig, asking: tuple[str, ...]) -> Finder:
        if plugin.type != _MULTI:
            return of_type(plugin.type, plugin.config)
        parts = types.make(_parts_of_multi, plugin.config)
        return built_in.MultiFinder([named(part, (*asking, name)) for part in parts])

    def of_type(type_name: str, config: Mapping[str, Any]) -> Finder:
        finder = types.make(types.factory(types.FINDERS, type_name, _FINDER_TYPES), config)
        if not callable(getattr(finder, "find", None)) or not isinstance(getattr(finder, "looks_for", None), str):
            raise InvalidArgumentError(f"{type_name!r} makes no finder: that has a method find and a text looks_for")
        return finder  # type: ignore[no-any-return] # checked

    for name in wanted:
        with _told_of(types.FINDERS, name):
            named(name, ())
    return made


def _parts_of_multi(finders: list[str]) -> list[str]:
    """Check what a finder of type `multi` is configured with: `finders`, names or types, in order."""
    if not isinstance(finders, list) or not finders or not all(isinstance(name, str) for name in finders):
        raise InvalidArgumentError(f"its finders must be a list of names or types of finders, not {finders!r}")
    return finders


def _sizer(name: str, plugin: PluginConfig) -> Sizer:
    with _told_of(types.SIZERS, name):
        sizer = types.make(types.factory(types.SIZERS, plugin.type, _SIZER_TYPES), plugin.config)
        if not callable(getattr(sizer, "estimate", None)):
            raise InvalidArgumentError(f"{plugin.type!r} makes no sizer: that has a method estimate")
    return sizer  # type: ignore[no-any-return] # checked


@contextlib.contextmanager
def _told_of(section: str, name: str) -> Iterator[None]:
    """Put the setting's name before what is wrong with it."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{section}.{name}: {error.message}", details=error.details) from error
