"""Randomness of its own for each child: twins of one template would draw the same numbers.

A generator that its library has made with a fixed seed cannot be told from one without, but for NumPy's new ones: it is
reseeded, too. Python reseeds `random` itself after a fork, and what asks the kernel each time needs nothing (`secrets`,
`uuid4`, OpenSSL since 1.1.1, names of temporary files). Here are the rest: generators that libraries keep.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


_LEAST_ENTROPY: Final = 1 << 64
"""What comes of the system has 128 bits."""

_MT19937_WORDS: Final = 624


def generators() -> list[Callable[[], object]]:
    """Return what reseeds each generator there is in this process; ask before it is frozen (`gc.freeze`)."""
    found: list[Callable[[], object]] = []
    kinds = _kinds()
    known: dict[int, Callable[[Any], object] | None] = {}  # by the type's address: few types, and many objects
    for each in gc.get_objects():
        address = id(type(each))  # of the type alone: proxies of libraries raise what they like when they are looked at
        if address not in known:
            known[address] = next((reseed for kind, reseed in kinds if issubclass(type(each), kind)), None)
        reseed = known[address]
        if reseed is not None:
            found.append(_bound(reseed, each))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # the global one, which nothing that is collected may refer to
        found.append(_bound(_reseed_legacy, numpy_random))
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "seed"):
        found.append(torch.seed)
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        found.append(lambda: setattr(multiprocessing.current_process(), "authkey", os.urandom(32)))
    return found


def _bound(reseed: Callable[[Any], object], generator: object) -> Callable[[], object]:
    return lambda: reseed(generator)


def _kinds() -> list[tuple[type, Callable[[Any], object]]]:
    kinds: list[tuple[type, Callable[[Any], object]]] = [(random.Random, lambda each: each.seed())]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        kinds.append((numpy_random.RandomState, _reseed_legacy))
        kinds.append((numpy_random.Generator, _reseed_numpy))
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Generator"):
        kinds.append((torch.Generator, lambda each: each.seed()))
    return kinds


def _reseed_legacy(generator: Any) -> None:
    numpy = sys.modules["numpy"]
    try:  # half of what a new seed costs, of time and of pages
        key = numpy.frombuffer(os.urandom(4 * _MT19937_WORDS), numpy.uint32)
        generator.set_state(("MT19937", key, _MT19937_WORDS, 0, 0.0))
    except Exception:  # noqa: BLE001 - it is of another kind, or another one tomorrow
        generator.seed()


def _reseed_numpy(generator: Any) -> None:
    bits = generator.bit_generator
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
    if not isinstance(entropy, int) or entropy < _LEAST_ENTROPY:
        return  # its library has chosen the seed
    bits.state = type(bits)().state
