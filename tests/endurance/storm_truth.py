"""Whether what became of each call of the storm is true, by what was done to the models meanwhile.

A call that has ended well has run once. One with an error that says that it was not begun has not run, and any other has
run once at most. Each kind of error needs what causes it: a kill, an unload, a deadline that has passed.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass, field

DRAIN_S = 1.0
"""How long an unload waits for calls in the storm."""

EARLY_S = 0.002
"""Deadlines travel as whole milliseconds."""

LATE_S = 30.0
"""What a busy machine may take for something that does not wait for anything."""

_NOT_BEGUN = (
    "was not sent",
    "before the model was loaded",
    "when the call arrived",
    "of this client; a client may have",
    "there is no model",
    "was overtaken",
)
_IN_FLIGHT = re.compile(r"has (\d+) calls? (?:in flight|that wait for it to be loaded), (\d+) of this client")


@dataclass
class Fault:
    """Something that was done to a model; `ended_s` is when it served again."""

    kind: str
    model_id: str
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float = float("inf")

    def touches(self, call):
        """Say whether a call was there meanwhile."""
        return self.model_id == call.model_id and self.began_s <= call.ended_s and self.ended_s >= call.began_s


class Truth:
    """What happened."""

    def __init__(self):
        self.faults = []
        self.killed = {}
        """When each worker was killed, by pid."""

    def wrong(self, calls, ran, whole):
        """Return what is not true of these calls; `ran` are the names of those that models have run.

        Of the clients in `whole` all calls are there.
        """
        counts = Counter(ran)
        problems = [f"{name} ran {count} times" for name, count in counts.items() if count > 1]
        problems += [
            f"{name} has ended {count} times" for name, count in Counter(c.id for c in calls).items() if count > 1
        ]
        crowds = _Crowds(calls, whole)
        for call in calls:
            why = self._why(call, counts[call.id], crowds)
            if why:
                problems.append(f"{why}: {call}")
        return problems

    def _why(self, call, count, crowds):
        if call.end == "wrong":
            return "a wrong answer"
        if call.end == "ok" or (call.end == "UNKNOWN" and call.method == "fail"):
            return "" if count else "an answer of a call that did not run"
        if count and (call.end == "FAILED_PRECONDITION" or any(words in call.message for words in _NOT_BEGUN)):
            return "it ran, and its error says that it was not begun"
        if call.ended_s - call.began_s > call.timeout_s + LATE_S:
            return "it ended long after its deadline"
        is_true = {
            "left": lambda: True,
            "CANCELLED": lambda: call.is_given_up,
            "DEADLINE_EXCEEDED": lambda: call.timeout_s - EARLY_S <= call.ended_s - call.began_s and call.timeout_s < 1,
            "UNAVAILABLE": lambda: self._was_killed(call),
            "ABORTED": lambda: self._was_aborted(call),
            "NOT_FOUND": lambda: self._was("unload", "now")(call),
            "FAILED_PRECONDITION": lambda: self._could_not(call),
            "RESOURCE_EXHAUSTED": lambda: crowds.explain(call),
        }.get(call.end)
        return "" if is_true is not None and is_true() else "an error that is not true"

    def _was(self, *kinds):
        return lambda call: any(fault.kind in kinds and fault.touches(call) for fault in self.faults)

    def _was_killed(self, call):
        if "was not sent" in call.message:
            return self._was("kill")(call)
        at_s = self.killed.get(call.details.get("pid"))
        return at_s is not None and at_s <= call.ended_s and "SIGKILL" in call.message

    def _was_aborted(self, call):
        if "was overtaken" in call.message:
            return self._was("unload", "now", "reload")(call)
        if "did not end within" not in call.message:
            return "was unloaded" in call.message and self._was("now")(call)
        return any(
            fault.kind in ("unload", "reload", "replace")
            and fault.touches(call)
            and call.ended_s - fault.began_s >= DRAIN_S - EARLY_S
            for fault in self.faults
        )

    def _could_not(self, call):
        state = call.details.get("state")
        kinds = {"UNLOADING": ("unload", "now"), "FAILED": ("kill",), "LOADING": ("unload", "now", "kill")}
        return state in kinds and self._was(*kinds[state])(call)


class _Crowds:
    """How many calls each client may have had in flight."""

    def __init__(self, calls, whole):
        self._whole = whole
        self._by_owner = {}
        for call in calls:
            self._by_owner.setdefault((call.client, call.model_id), []).append(call)

    def explain(self, call):
        """Say whether a refusal because of calls in flight speaks of no more than there may have been."""
        found = _IN_FLIGHT.search(call.message)
        if found is None:
            return False
        total, own = map(int, found.groups())
        # What was given up goes on in its worker for a while.
        there = [
            other
            for other in self._by_owner[call.client, call.model_id]
            if other.began_s <= call.ended_s and (other.ended_s >= call.began_s - (LATE_S if _goes_on(other) else 0))
        ]
        return 0 < own <= total and (own <= len(there) or call.client not in self._whole)


def _goes_on(call):
    return call.is_given_up or call.end in ("left", "DEADLINE_EXCEEDED")
