"""What a world may do, move by move: the names of its methods, and from which values each of their arguments comes."""

from __future__ import annotations

from typing import Any, Final

from driver import source_of
from world_of_files import BOOL, CLIENTS, MODELS, MOVES_OF_FILES, NESTED, RETRIES, TIMEOUTS_S, N
from world_of_lanes import MOVES_OF_LANES
from world_of_memory import MOVES_OF_MEMORY

SOURCES = (source_of("/x"), source_of("/x"), source_of("/models/a"), source_of(None))

MOVES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "load": {
        "model_id": NESTED,
        "source": SOURCES,
        "wait": BOOL,
        "retries": RETRIES,
        "timeout_s": TIMEOUTS_S,
        "client": CLIENTS,
        "reload": (False, False, False, True),
        "cancel_on_timeout": (False, False, True),
    },
    "retrieve": {
        "model_id": NESTED,
        "generation": (None, None, 1, 2, 5),
        "timeout_s": TIMEOUTS_S,
        "client": CLIENTS,
    },
    "unload": {"model_id": MODELS, "timeout_s": TIMEOUTS_S, "client": CLIENTS, "at_once": BOOL},
    "unload_all": {"timeout_s": TIMEOUTS_S, "client": CLIENTS, "at_once": BOOL},
    "shut_down": {"client": (*CLIENTS, None), "at_once": BOOL},
    "call": {
        "model_id": MODELS,
        "method": ("predict", "generate", "predikt"),
        "timeout_s": TIMEOUTS_S,
        "size_bytes": (1, 4),
        "client": CLIENTS,
    },
    "call_again": {"n": N, "model_id": MODELS},
    "ask_again": {"n": N, "is_shutdown": (False, False, False, True)},
    "cancel": {"n": N},
    "grant_credit": {"n": N},
    "vanish": {"client": CLIENTS},
    "find": {"n": N, "how": ("found", "found", "found", "ephemeral", "nothing", "wrong")},
    "delay": {"n": N},
    "go_on": {"n": N},
    "fail_to_spawn": {"n": N},
    "refuse_load": {"n": N},
    "babble": {"n": N},
    "sample": {"n": N, "is_readable": BOOL},
    "reply": {"n": N, "final": BOOL, "failed": BOOL},
    "lie": {"n": N, "call_id": tuple(range(20))},
    "lose_call": {"n": N, "is_full": BOOL},
    "say_last_words": {"n": N},
    "exit": {"n": N},
    "prove": {"n": N},
    "pass_time": {"seconds": (0.0, 0.1, 0.1, 1.0, 1.0, 11.0, 31.0, 601.0)},
    "oversleep": {"seconds": (1.0, 11.0, 601.0)},
    **MOVES_OF_FILES,
    **MOVES_OF_LANES,
    **MOVES_OF_MEMORY,
}

MOVES_OF_OBSTACLES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "prove": {"n": N, "obstacle": (None, None, None, "hangs", "beyond reach")},
}
"""In place of those above: what was killed may still be there."""

MOVES_OF_CONNECTIONS: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "disconnect": {"n": N, "is_again": (False, False, False, True)},
    "greet_early": {"n": N},
}
"""For games of their own: workers that lose their connections have short lives. What makes processes may be late."""
