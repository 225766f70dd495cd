"""What the terminal says at the end about checks that did not pass, each reason once, and how to run a check again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from plugins import causes
from plugins.against import told
from plugins.not_covered import Group, counted, grouped
from plugins.outcomes import first_line
from plugins.record import recorder_of
from plugins.session import Settings
from plugins.verdict import alike, by_reason, label

NAMED = 5  # checks that say the same as another, in one line


def again(settings: Settings, check: dict[str, Any], root: Path) -> str:
    """The command that runs this check alone, as this run did, for a shell in the suite's folder."""
    path = settings.inventory.path
    site = settings.site_checks
    own = site and check["module"] == site.module
    words = ["uv", "run", "pytest", *([] if own else [f"{TESTS}/{check['module']}"]), "-k", check["id"]]
    # with "=" before a path outside the checkout: else pytest takes that path for a root, and loads no suite
    words += [f"--site-checks={site.folder}"] if site else []
    words += ["--inventory", str(path.relative_to(root))] if path.is_relative_to(root) else [f"--inventory={path}"]
    words += ["--plant", settings.plant.name] if settings.plant else []
    return shlex.join([*words, "--seed", str(settings.seed)])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    recorder = recorder_of(config)
    if recorder is None or recorder.verdict is None or recorder.usage_errors or exitstatus == 4:
        return
    tr, data, verbose = terminalreporter, recorder.data, config.get_verbosity() > 0
    checks = data["checks"]

    def bad() -> Iterator[str]:
        for check, *others in alike(checks):
            said = check["reason"].splitlines() if check["findings"] else [first_line(check["reason"])]
            if len(said) == 1:
                yield f"{label(check)} {check['title'].removesuffix('.')}: {said[0]}"
            else:
                yield f"{label(check)} {check['title'].removesuffix('.')}:"
                yield from (f"  {line}" for line in said)
            yield from (f"  {line}" for line in causes.lines(check["found_causes"]))
            if others:
                few = verbose or len(others) <= NAMED
                yield f"  the same: {', '.join(map(label, others)) if few else counted(others) + ' (-v names each)'}"
            yield f"  again: {again(recorder.settings, check, config.rootpath)}"

    def excused(outcome: str) -> Iterator[str]:
        width = None if verbose else config.get_terminal_writer().fullwidth
        for check in checks:
            if check["outcome"] == outcome:
                yield _cut(f"{label(check)} {first_line(check['reason'])} ({check['title']})", width)

    groups = grouped(checks, recorder.settings, config.rootpath)
    sections = {
        "failed, or could not look": [*bad(), *data["problems"]],
        "tear-down errors": data["tear_down_errors"],
        "compared with the reference": told(data.get("comparison")),
        "known defects": excused("known_defect"),
        "blocked by hardware": excused("blocked_by_hardware"),
        f"not covered, by reason{'' if verbose else ' (-v names each check)'}": _not_covered(groups, verbose),
        "incomplete": recorder.verdict.incomplete,
        "kept running": data["kept"],
    }
    for title, entries in sections.items():
        if entries := list(entries):
            tr.section(title)
            for entry in entries:
                tr.write_line(entry)


def _not_covered(groups: list[Group], verbose: bool) -> Iterator[str]:
    for group in groups:
        yield group.line
        if verbose:
            for reason, inside in by_reason(group.checks, "not_covered").items():
                yield f"  {reason}"
                yield from (f"    {label(check)} {check['title']}" for check in inside)


def _cut(text: str, width: int | None) -> str:
    """To one line of the terminal; None: whole."""
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"
