"""Light dataclasses and named tuples: what they do is what the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import sys
import typing

import pytest

from hostd_workers.wire import light, light_dataclass

MAKERS = (dataclasses.dataclass, light_dataclass.dataclass)
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
    kind(1)
    assert not inspect.isfunction(vars(kind)["__init__"])
    assert str(inspect.signature(kind)).startswith("(a: 'int', b: 'str' = 'b', c: 'list' = ")
    assert inspect.isfunction(vars(kind)["__init__"])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_instance_is_the_same_before_and_after_its_init_is_made(options):
    (_, made), (_, kind) = classes(**options)
    for given, named in (((1,), {}), ((1, "x", [2]), {}), ((), {"c": [3], "a": 1}), ((1,), {"b": "y"})):
        expected = list(vars(made(*given, **named)).items())
        found = {str(list(vars(kind(*given, **named)).items())) for _ in range(light.FEW)}
        assert found == {str(expected)}, "in the order of the fields"
    assert inspect.isfunction(vars(kind)["__init__"])
    assert kind(1).c is not kind(1).c


@pytest.mark.parametrize("wrong", [((), {}), ((1, 2, 3, 4), {}), ((1,), {"a": 1}), ((), {"b": 1}), ((1,), {"nope": 1})])
def test_wrong_arguments_are_refused_in_pythons_words_before_and_after(wrong):
    given, named = wrong
    ((_, made), (_, kind)), ((pair, _), (light_pair, _)) = classes(), named_tuples()
    words = []
    for each in (made, kind, kind, pair, light_pair, light_pair):
        with pytest.raises(TypeError) as raised:
            each(*given, **named)
        words.append(str(raised.value))
    assert words[0] == words[1] == words[2]
    assert words[3] == words[4] == words[5]


class Light(light.NamedTuple):
    """Two, for pickle, which looks for it in its module."""

    a: int
    b: str = "b"


def named_tuples():
    """Return the same class made by both, with a class below it."""
    for base in (typing.NamedTuple, light.NamedTuple):

        class Pair(base):
            """Two."""

            a: int
            b: str = "b"

            @property
            def both(self):
                return f"{self.a}{self.b}"

        class Below(Pair):
            """Below."""

        yield Pair, Below


def behaviour_of_tuples(kind, below):
    """Return what a named tuple, its instances and a class below it do."""
    one = kind(1)
    seen = [one, one.both, repr(one), one._replace(a=2), one._asdict(), kind._fields, kind(b=1, a=2), copy.copy(one)]
    seen += [kind._field_defaults, kind.__doc__, kind.__module__, kind.__qualname__, kind.__match_args__, hash(one)]
    seen += [isinstance(one, tuple), kind._make((1, 2)), typing.get_type_hints(kind)]
    seen += [below(3), below(3)._replace(b=1), repr(below(3)), below(3) == (3, "b")]
    for act in (
        lambda: one._replace(c=1),
        lambda: kind._make((1,)),
        lambda: setattr(one, "a", 2),
        lambda: setattr(one, "c", 2),
        kind,
        lambda: kind(1, 2, 3),
        lambda: kind(1, nope=2),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)) as raised:
            act()
        seen.append(str(raised.value))  # of what type is another matter in Python 3.13
    return seen


def test_a_light_named_tuple_does_what_a_named_tuple_does():
    standard, own = (behaviour_of_tuples(*kinds) for kinds in named_tuples())
    assert own == standard


def test_its_constructor_is_made_when_it_has_been_used_often():
    (_, (kind, below)) = named_tuples()
    made = {each for _ in range(light.FEW) for each in (kind(1), below(1), kind(b="b", a=1), kind(1, b="b"))}
    assert made == {(1, "b")}
    assert isinstance(vars(kind)["__new__"], staticmethod)
    assert kind(1) == below(a=1) == (1, "b")


def test_wrong_arguments_through_a_class_with_a_constructor_of_its_own():
    (_, (kind, _)) = named_tuples()

    class Own(kind):
        def __new__(cls, *values):
            return super().__new__(cls, *values)

    assert Own(1, "b") == (1, "b")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        Own()


def test_a_module_is_finished_for_those_that_share_it(monkeypatch):
    ((_, (base, kind)), (_, (pair, below))) = classes(frozen=True), named_tuples()
    own = light.pattern("a+b")
    light.finish({"a": kind, "b": pair, "c": below, "d": own, "e": 7, "f": base})
    assert inspect.isfunction(vars(kind)["__init__"])
    assert inspect.isfunction(vars(base)["__init__"])
    assert isinstance(vars(pair)["__new__"], staticmethod)
    assert (kind(1).a, pair(1), below(2)) == (1, (1, "b"), (2, "b"))
    monkeypatch.setattr(sys.modules.get("re._compiler") or sys.modules["sre_compile"], "compile", None)
    assert own.fullmatch("aab"), "it is remembered"


def test_pickles_are_of_its_class():
    assert pickle.loads(pickle.dumps(Light(1))) == Light(1)
    assert type(pickle.loads(pickle.dumps(Light(1)))) is Light


def test_a_light_pattern_does_what_a_compiled_one_does_and_is_compiled_when_it_is_used(monkeypatch):
    compiled = []
    monkeypatch.setattr(light.re, "compile", lambda *given: compiled.append(given) or re._compile(*given))
    own = light.pattern(r"(a+)(?P<b>b)", re.IGNORECASE)
    assert compiled == []
    standard = re._compile(r"(a+)(?P<b>b)", re.IGNORECASE)
    for name in ("match", "fullmatch", "search"):
        for text in ("AAB", "xab", ""):
            found, expected = getattr(own, name)(text), getattr(standard, name)(text)
            assert (found and found.groupdict()) == (expected and expected.groupdict())
    assert own.sub("-", "xabxAB") == standard.sub("-", "xabxAB")
    assert (own.pattern, own.flags, own.findall("abab")) == (standard.pattern, standard.flags, standard.findall("abab"))
    with pytest.raises(AttributeError):
        own.nothing  # noqa: B018
    assert own.match is own.match, "what is used often is looked up once"
    assert copy.copy(own).match("ab"), "and a copy looks it up as well"
