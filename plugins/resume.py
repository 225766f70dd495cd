"""--resume RUN: runs the checks that an earlier run of the same commit on the same inventory did not judge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.times.record import RecordError, load
from plugins.marks import id_of, module_of
from plugins.outcomes import INTERRUPTED, NOT_RUN, case_of
from plugins.output import clean, say
from plugins.record import git_revision, recorder_of, schema_mismatch, suite_version
from plugins.session import Settings, settings_of
from plugins.verdict import label


@dataclass(frozen=True)
class Resumed:
    """The run that goes on, by id; the labels of the checks that are judged, by it and by the runs that it went on with
    itself; and how many of them had which outcome."""

    run_id: str
    judged: frozenset[str]
    outcomes: dict[str, int]

    @property
    def line(self) -> str:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(self.outcomes.items()))
        return f"resumes run {self.run_id}, which judged {len(self.judged)} checks: {counts or 'none'}"

    def record(self) -> dict[str, Any]:
        """For run.json."""
        return {"run_id": self.run_id, "judged": sorted(self.judged), "outcomes": self.outcomes}


RESUMED: pytest.StashKey[Resumed] = pytest.StashKey()


def resumed(data: dict[str, Any]) -> Resumed:
    """Of a record: what it judged. A check that was interrupted, or never run to its end, is not judged."""
    judged = [check for check in data["checks"] if not check["reason"].startswith((INTERRUPTED, NOT_RUN))]
    before = data.get("resumes") or {"judged": [], "outcomes": {}}
    outcomes = Counter(check["outcome"] for check in judged) + Counter(before["outcomes"])
    labels = frozenset(map(label, judged)) | frozenset(before["judged"])
    return Resumed(data["run_id"], labels, dict(sorted(outcomes.items())))


def read(given: str, settings: Settings, root: Path) -> dict[str, Any]:
    """The record of the run. Raises UsageError where it cannot go on here, with both values."""
    folder = next((path for path in (Path(given), settings.report_dir.parent / given) if path.is_dir()), None)
    if folder is None:
        raise pytest.UsageError(
            f"--resume {given}: there is no such folder, and no such run in {settings.report_dir.parent}"
        )
    try:
        file, data = load(folder)
    except RecordError as error:
        raise pytest.UsageError(f"--resume {given}: {clean(str(error))}") from None
    if mismatch := schema_mismatch(data):
        raise pytest.UsageError(f"--resume {given}: {file} is not a record of this suite: {clean(mismatch)}")
    inventory = settings.inventory
    for what, there, here in (
        ("its inventory differs", data["inventory"]["fingerprint"], inventory.fingerprint),
        ("its suite has another commit", data["suite"]["git"], git_revision(root)),
        ("its suite has another version", data["suite"]["version"], suite_version()),
        ("it has another plant", (data["plant"] or {}).get("name"), settings.plant.name if settings.plant else None),
    ):
        if there != here:
            raise pytest.UsageError(
                f"--resume {given}: {what}: {there} there, {here} here ({inventory.path}); run all checks again instead"
            )
    return dict(data)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    settings, given = settings_of(config), config.getoption("resume")
    if settings is None or given is None:
        return
    try:
        config.stash[RESUMED] = found = resumed(read(given, settings, config.rootpath))
    except pytest.UsageError:
        if settings.writes:
            settings.report_dir.rmdir()
        raise
    if recorder := recorder_of(config):
        recorder.resumes = found.record()
        say(config, found.line)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    found = config.stash.get(RESUMED, None)
    if found is None:
        return
    judged = [item for item in items if module_of(item) and _label(item) in found.judged]
    if judged:
        config.hook.pytest_deselected(items=judged)
        items[:] = [item for item in items if item not in judged]


def _label(item: pytest.Item) -> str:
    return label({"id": id_of(item), "case": case_of(item)})
