"""What the terminal says at the end about checks that did not pass, each reason once, and how to run a check again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from plugins.keys import Settings, recorder_of
from plugins.outcomes import first_line
from plugins.verdict import by_reason, label


def again(settings: Settings, check: dict[str, Any], root: Path) -> str:
    """The command that runs this check alone, as this run did, for a shell in the suite's folder."""
    path = settings.inventory.path
    words = ["uv", "run", "pytest", f"{TESTS}/{check['module']}", "-k", check["id"]]
    words += ["--inventory", str(path.relative_to(root) if path.is_relative_to(root) else path)]
    words += ["--plant", settings.plant.name] if settings.plant else []
    return shlex.join([*words, "--seed", str(settings.seed)])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    recorder = recorder_of(config)
    if recorder is None or recorder.verdict is None or recorder.usage_errors or exitstatus == 4:
        return
    tr, data, verbose = terminalreporter, recorder.data, config.get_verbosity() > 0
    checks = data["checks"]

    def lines(*outcomes: str) -> Iterator[str]:
        for check in checks:
            if check["outcome"] in outcomes:
                yield f"{label(check)} {check['title']}: {first_line(check['reason'])}"
                if check["outcome"] in ("failed", "error"):
                    yield f"  again: {again(recorder.settings, check, config.rootpath)}"

    not_covered = by_reason(checks, "not_covered")
    count = sum(map(len, not_covered.values()))
    sections = {
        "failed, or could not look": [*lines("failed", "error"), *data["problems"]],
        "tear-down errors": data["tear_down_errors"],
        "known defects": lines("known_defect"),
        "blocked by hardware": lines("blocked_by_hardware"),
        f"not covered ({count}{'' if verbose else '; -v names each'})": _groups(not_covered, verbose),
        "incomplete": recorder.verdict.incomplete,
        "kept running": data["kept"],
    }
    for title, entries in sections.items():
        if entries := list(entries):
            tr.section(title)
            for entry in entries:
                tr.write_line(entry)


def _groups(groups: dict[str, list[dict[str, Any]]], verbose: bool) -> Iterator[str]:
    for reason, inside in groups.items():
        if verbose:
            yield f"{reason}:"
            yield from (f"  {label(check)} {check['title']}" for check in inside)
        else:
            yield f"{reason}: {', '.join(map(label, inside))}"
