"""When each check ran and what it waited for, on the monotonic clock; the recorder puts it on the run's own clock."""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from fixtures.basics import waits
from fixtures.times.settings import LEAST_WAIT_S
from plugins.session import CheckState

# fields that are a moment
MOMENTS = ("start_s", "up_s", "down_s", "end_s")
NO_TIMES: dict[str, Any] = {"runner": "", "start_s": None, "phases": {}, "waits": [], "waited_s": 0.0}


def times_of(state: CheckState, runner: str) -> dict[str, Any]:
    """What a check's entry in run.json holds of it; the waits are those that have ended since this was asked last."""
    return {
        "runner": runner,
        "start_s": state.began or None,
        "phases": {name: round(took, 4) for name, took in state.phases.items()},
        **waits_since(state.began),
    }


def waits_since(began: float) -> dict[str, Any]:
    """Of what has ended since this was asked last, the part after `began`; `waited_s` counts what overlaps once."""
    ended = [each for each in waits.log.take(LEAST_WAIT_S) if each.end_s > began]
    found = [each._replace(start_s=max(each.start_s, began)) for each in ended]
    merged = [each | {"total_s": round(each["total_s"], 3)} for each in waits.merged(found)]
    return {"waits": merged, "waited_s": round(waits.covered_s((each.start_s, each.end_s) for each in found), 3)}


def on_clock(entry: dict[str, Any], clock: float) -> dict[str, Any]:
    """The same entry with its moments in seconds since `clock`, which is on the monotonic clock too."""
    moved = {name: round(entry[name] - clock, 3) for name in MOMENTS if entry.get(name) is not None}
    if "waits" in entry:
        moved["waits"] = [on_clock(each, clock) for each in entry["waits"]]
    return entry | moved


def own_processor(*, children: bool = True) -> list[dict[str, Any]]:
    """Seconds of this process; and of what it has started and waited for, which are programs on this machine."""
    used = {"suite": resource.RUSAGE_SELF} | ({"commands": resource.RUSAGE_CHILDREN} if children else {})
    found = {kind: resource.getrusage(who) for kind, who in used.items()}
    return [{"node": None, "kind": kind, "seconds": it.ru_utime + it.ru_stime} for kind, it in found.items()]


def summed(processor: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each node and kind, the most first."""
    seconds: dict[tuple[str | None, str], float] = defaultdict(float)
    for each in processor:
        seconds[each["node"], each["kind"]] += each["seconds"]
    most = sorted(seconds.items(), key=lambda each: -each[1])
    return [{"node": node, "kind": kind, "seconds": round(used, 2)} for (node, kind), used in most]


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
