"""Light dataclasses and named tuples: what they do is what the standard library's do."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

from hostd_workers.wire import light

MAKERS = (dataclasses.dataclass, light.dataclass)
OPTIONS = [{}, {"frozen": True}, {"eq": False}, {"frozen": True, "eq": False}]


def classes(**options):
    """Return the same class made by both, with a class below it."""
    for maker in MAKERS:

        @maker(**options)
        class Base:
            """Below."""

            a: int
            b: str = "b"

        @maker(**options)
        class Made(Base):
            """Above."""

            shared: typing.ClassVar[int] = 7
            c: list = dataclasses.field(default_factory=list, compare=False, repr=False)

            def __repr__(self):
                return f"own {self.a}"

        yield Base, Made


def behaviour(kind, *arguments):
    """Return what a class and its instances do, in words."""
    one, same, other = kind(*arguments), kind(*arguments), kind(*arguments[:-1], "z")
    seen = [repr(one).rpartition(".")[2], one == same, one == other, one == arguments, vars(one), kind.__match_args__]
    seen += [str(inspect.signature(kind)), [field.name for field in dataclasses.fields(kind)], dataclasses.asdict(one)]
    seen += [vars(dataclasses.replace(one, a=5)), kind.__init__.__qualname__, kind.__doc__]
    for act in (
        lambda: hash(one) == hash(same),
        lambda: setattr(one, "a", 2),
        lambda: delattr(one, "a"),
        kind,
        lambda: kind(1, nope=2),
    ):
        try:
            seen.append(act())
        except (TypeError, dataclasses.FrozenInstanceError) as error:
            seen.append((type(error), str(error)))
    return seen


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_light_dataclass_does_what_a_dataclass_does(options):
    (base, made), (light_base, light_made) = classes(**options)
    assert behaviour(light_made, 1, "x") == behaviour(made, 1, "x")
    assert behaviour(light_base, 1, "x") == behaviour(base, 1, "x")
    assert light_base(1) != light_made(1)


def test_its_init_is_made_when_it_is_looked_up():
    (_, (_, kind)) = classes(frozen=True)
    assert not inspect.isfunction(vars(kind)["__init__"])
    kind(1)
    assert inspect.isfunction(vars(kind)["__init__"])


def test_a_light_named_tuple_does_what_a_named_tuple_does():
    made = []
    for base in (typing.NamedTuple, light.NamedTuple):

        class Pair(base):
            """Two."""

            a: int
            b: str = "b"

            @property
            def both(self):
                return f"{self.a}{self.b}"

        pair = Pair(1)
        made.append(
            [
                *(pair, pair.both, repr(pair), pair._replace(a=2), pair._asdict(), Pair._fields, Pair._field_defaults),
                *(Pair.__doc__, Pair.__module__, Pair.__qualname__, isinstance(pair, tuple), Pair.__match_args__),
                *(
                    [(name, each.default) for name, each in inspect.signature(Pair).parameters.items()],
                    typing.get_type_hints(Pair),
                ),
            ]
        )
    assert made[0] == made[1]
