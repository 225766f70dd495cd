"""An old record judged again by the bounds of today, and what changed by that. Nothing here writes the record."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fixtures.basics.check_source import read_checks
from fixtures.basics.measurement import Measurement
from fixtures.basics.thresholds import Thresholds
from fixtures.cluster.inventory import InventoryError, load
from fixtures.times.record import RecordError
from fixtures.times.record import load as load_record
from plugins.checks import required_ids
from plugins.options import thresholds_of
from plugins.output import clean
from plugins.plants import plant_of
from plugins.record import schema_mismatch
from plugins.session import Settings
from plugins.verdict import Verdict, decide, label

OUT_OF_BOUNDS = "out of bounds: "  # how fixtures.basics.measurement begins
NEVER_RUN = "selected, and never run: "  # how plugins.verdict begins


def read(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and its record. Raises RecordError for one that does not fit reports/run.schema.json."""
    file, data = load_record(path)
    if mismatch := schema_mismatch(data):
        raise RecordError(f"{file}: is not a record of this suite, or an older suite wrote it: {clean(mismatch)}")
    return file.parent, data


def settings_for(data: dict[str, Any], folder: Path, root: Path) -> Settings:
    """As the run had them, its inventory and bounds as they are today. Raises RecordError."""
    try:
        inventory = load(Path(data["inventory"]["path"]))
        known, complete = read_checks(root)
        return Settings(
            inventory=inventory,
            run_id=data["run_id"],
            report_dir=folder,
            plant=plant_of(data["plant"]["name"], root) if data["plant"] else None,
            keep=False,
            seed=data["seed"],
            runner="main",
            distributing=False,
            runners=1,
            known=known,
            required=required_ids(inventory.cluster.dynamo_requires, known, complete),
            thresholds=thresholds_of(root, inventory, known, None),
        )
    except (InventoryError, pytest.UsageError, LookupError, ValueError) as error:
        raise RecordError(f"run {data['run_id']} cannot be judged again: {clean(str(error))}") from None


def judged_again(data: dict[str, Any], thresholds: Thresholds) -> tuple[dict[str, Any], Verdict, list[str]]:
    """The record with each measurement judged by `thresholds`, its verdict, and a sentence on each change.

    A check that passed fails where a number is out of bounds now; one that failed by its numbers alone passes where
    all are inside. Whatever else a check failed by is as it was.
    """
    data, changes = copy.deepcopy(data), []
    for check in data["checks"]:
        bounds = thresholds.get(check["id"], {})
        measured = [
            Measurement(
                each["name"], each["value"], each["n"], bounds.get(each["name"]), tuple(each.get("repeats", ()))
            )
            for each in check["measurements"]
        ]
        check["measurements"] = [each.as_dict() for each in measured]
        bad = "; ".join(str(each) for each in measured if each.judgement == "fail")
        before = check["outcome"]
        if before == "passed" and bad:
            check |= {"outcome": "failed", "reason": f"{OUT_OF_BOUNDS}{bad}"}
        elif before == "failed" and check["reason"].startswith(OUT_OF_BOUNDS):
            check |= {"reason": f"{OUT_OF_BOUNDS}{bad}"} if bad else {"outcome": "passed", "reason": ""}
        if check["outcome"] != before:
            changes.append(f"{label(check)} {before} then, {check['outcome']} now{f': {bad}' if bad else ''}")
    never = [each.removeprefix(NEVER_RUN) for each in data["incomplete"] if each.startswith(NEVER_RUN)]
    never_ran = [name for each in never for name in each.split(", ")]
    verdict = decide(data, never_ran, interrupted=data["exit_status"] == 2, pytest_failed=False)
    if verdict.word != data["verdict"]:
        changes.insert(0, f"{data['verdict']} then, {verdict.word} now")
    data |= {"verdict": verdict.word, "exit_status": verdict.exit_status, "incomplete": verdict.incomplete}
    return data, verdict, changes
