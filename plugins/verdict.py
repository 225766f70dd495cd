"""The session's verdict: ACCEPTED, REJECTED or INCOMPLETE, its exit status, and the last line of the terminal."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.keys import recorder_of, settings_of
from plugins.plants import CAUGHT
from plugins.terminal import say

_RAN = ("passed", "failed", "error", "known_defect")


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
    """
    checks = data["checks"]
    counts = Counter(check["outcome"] for check in checks)
    incomplete = _incomplete(data, never_ran)
    rejected = bool(counts["failed"] or counts["error"] or data["problems"] or data["tear_down_errors"])
    if interrupted:
        word, status = "INCOMPLETE", 2
        incomplete.insert(0, "interrupted")
    elif rejected or pytest_failed:
        word, status = "REJECTED", 1
    else:
        word, status = ("INCOMPLETE", 6) if incomplete else ("ACCEPTED", 0)
    return Verdict(word, status, _line(data, word, counts), incomplete)


def _incomplete(data: dict[str, Any], never_ran: list[str]) -> list[str]:
    checks = data["checks"]
    reasons = []
    if not any(check["outcome"] in _RAN for check in checks):
        reasons.append("no check ran")
    if never_ran:
        reasons.append(f"selected, and never run: {', '.join(never_ran)}")
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


def by_reason(checks: Iterable[dict[str, Any]], outcome: str) -> dict[str, list[dict[str, Any]]]:
    """The checks of that outcome, those of one reason together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        if check["outcome"] == outcome:
            groups.setdefault(check["reason"], []).append(check)
    return groups


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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After every fixture's tear-down, before pytest-html's page."""
    recorder = recorder_of(session.config)
    if recorder is None:
        return
    if recorder.usage_errors:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    recorder.finish(exitstatus)
    if session.exitstatus != pytest.ExitCode.USAGE_ERROR:
        assert recorder.verdict is not None
        session.exitstatus = recorder.verdict.exit_status
        point_latest(recorder.settings.report_dir)  # here already: whatever breaks after it, the newest run is this one


class LastWord:
    """Outermost around the end of the session: after pytest-html's page and pytest's own summary line."""

    def __init__(self, folder: Path) -> None:
        self._begun, self._folder = False, folder

    def pytest_runtest_logstart(self) -> None:
        """From its first check on a run is the newest: whatever ends it, no earlier verdict is read for its own."""
        if not self._begun:
            self._begun = True
            point_latest(self._folder)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        recorder = recorder_of(session.config)
        assert recorder is not None
        folder = recorder.settings.report_dir
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            shutil.rmtree(folder)
            for text in recorder.usage_errors:
                say(session.config, f"ERROR: {text}", red=True)
        elif verdict := recorder.verdict:
            session.exitstatus = verdict.exit_status  # pytest's own --max-warnings sets another
            green, page = verdict.word == "ACCEPTED", folder / "report.html"
            if plant := recorder.data["plant"]:
                caught = plant["word"] == CAUGHT
                say(session.config, plant["line"], bold=True, green=caught, red=not caught)
            say(session.config, f"report: {page if page.is_file() else folder / 'run.json'}")
            say(session.config, verdict.line, bold=True, green=green, red=not green)
        return result


def point_latest(folder: Path) -> None:
    """Let reports/latest point at this run, at once for whoever looks."""
    fresh = folder.with_name(f".latest-{folder.name}")
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, folder.with_name("latest"))


def pytest_configure(config: pytest.Config) -> None:
    settings = settings_of(config)
    if settings is not None and settings.writes:
        config.pluginmanager.register(LastWord(settings.report_dir), "acceptance-last-word")
