"""The verdict on a record: ACCEPTED, REJECTED or INCOMPLETE, its exit status, and the line that says so. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_RAN = ("passed", "failed", "error", "known_defect")
_SELECT = {"-k": "keyword", "-m": "markers"}  # options of pytest, by their name in the record


@dataclass(frozen=True)
class Verdict:
    word: str
    exit_status: int
    line: str  # the last line of the terminal
    incomplete: list[str] = field(default_factory=list)  # what the profile requires and did not get


def decide(data: dict[str, Any], never_ran: list[str], *, interrupted: bool, pytest_failed: bool) -> Verdict:
    """The verdict on a run's record.

    `never_ran`: the checks, by id and case, that pytest selected and of which it gave no result.
    `pytest_failed`: pytest counted a failure itself; then the session is never ACCEPTED.
    What got slower than its reference allows is among the record's problems.
    """
    checks = data["checks"]
    counts = Counter(check["outcome"] for check in checks)
    incomplete = _incomplete(data, never_ran, interrupted)
    rejected = bool(counts["failed"] or counts["error"] or data["problems"] or data["tear_down_errors"])
    if interrupted:
        word, status = "INCOMPLETE", 2
        incomplete.insert(0, "interrupted")
    elif rejected or pytest_failed:
        word, status = "REJECTED", 1
    else:
        word, status = ("INCOMPLETE", 6) if incomplete else ("ACCEPTED", 0)
    return Verdict(word, status, _line(data, word, counts), incomplete)


def _incomplete(data: dict[str, Any], never_ran: list[str], interrupted: bool) -> list[str]:
    checks = data["checks"]
    reasons = []
    if not (checks or never_ran or interrupted or data["problems"]):
        reasons.append(_nothing_selected(data["selection"]))
    elif not any(check["outcome"] in _RAN for check in checks):
        reasons.append("no check ran")
    if never_ran:
        reasons.append(f"selected, and never run: {', '.join(never_ran)}")
    reasons += (data.get("comparison") or {}).get("unanswered", [])
    required = [check for check in checks if check["required"]]
    for reason, inside in by_reason(required, "not_covered").items():
        are = "is" if len(inside) == 1 else "are"
        reasons.append(f"{', '.join(map(label, inside))} {are} required and not covered: {reason}")
    for check in required:
        for measurement in check["measurements"]:
            if measurement["judgement"] == "no_threshold":
                reasons.append(f"{label(check)}: {measurement['name']} has no threshold")
            if measurement["judgement"] == "too_few":
                need = measurement["threshold"]["min_n"]
                reasons.append(f"{label(check)}: {measurement['name']} has n={measurement['n']}, {need} are needed")
    return reasons


def _nothing_selected(selection: dict[str, Any]) -> str:
    asked = [f"{option} {shlex.quote(selection[key])}" for option, key in _SELECT.items() if selection[key]]
    inside = " ".join(selection["arguments"])
    return f"no check ran: {' '.join(asked) + ' selects' if asked else 'there is'} none in {inside}"


def by_reason(checks: Iterable[dict[str, Any]], outcome: str) -> dict[str, list[dict[str, Any]]]:
    """The checks of that outcome, those of one reason together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        if check["outcome"] == outcome:
            groups.setdefault(check["reason"], []).append(check)
    return groups


def alike(checks: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The checks that failed or could not look, those that say the same together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for check in checks:
        if check["outcome"] in ("failed", "error"):
            groups.setdefault((check["reason"], str(check["found_causes"])), []).append(check)
    return list(groups.values())


def label(check: dict[str, Any]) -> str:
    return f"{check['id']}[{check['case']}]" if check["case"] else check["id"]


def _line(data: dict[str, Any], word: str, counts: Counter[str]) -> str:
    scope = " for the part selected" if data["selection"]["part"] else ""
    plant = f", plant {data['plant']['name']}" if data["plant"] else ""
    teardown = len(data["tear_down_errors"])
    torn = f", {teardown} tear-down error{'s' * (teardown > 1)}" if teardown else ""
    defects = counts["known_defect"]
    return (
        f"{word}{scope} (profile {data['profile']}{plant}): {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['error']} error{'s' * (counts['error'] != 1)}, {counts['not_covered']} not covered, "
        f"{counts['blocked_by_hardware']} blocked by hardware, {defects} known defect{'s' * (defects != 1)}{torn}"
    )
