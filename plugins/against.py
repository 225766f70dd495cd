"""A run against an earlier one, and every run in the history among the reports: what the record takes of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fixtures.nights.change import WORDS
from fixtures.nights.comparison import Refused, alike, compare
from fixtures.nights.history import History, HistoryError
from fixtures.nights.night import Night, night_of
from fixtures.nights.settings import CONFIDENCE
from fixtures.times.record import RecordError
from plugins.output import clean
from plugins.session import Settings


class Nights:
    """What this run was asked of other runs. `found` is for run.json; each of `lines` is said at the end."""

    def __init__(self, settings: Settings, reference: Night | None, save: bool, file_mode: int) -> None:
        self.history = History(settings.report_dir.parent)
        self.lines: list[str] = []
        self._reference, self._save, self._file_mode = reference, save, file_mode

    def found(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """The comparison, as run.json has it; None where nothing was asked. `data`: the record so far."""
        if self._reference is None and not self._save:
            return None
        made: dict[str, Any] = {"reference": "", "line": "", "unanswered": [], "confidence": CONFIDENCE, "metrics": []}
        try:
            here = night(data)
            if self._save and here.disturbed:
                made["unanswered"] = [f"not saved as a reference: {here.disturbed}"]
            if self._reference:
                made["reference"] = self._reference.run_id
                found = compare(self._reference, here, alike(here, self.history.nights()[0])).record()
                made = found | {"unanswered": [*made["unanswered"], *found["unanswered"]]}
        except (Refused, RecordError, HistoryError) as error:
            made |= {"line": f"not compared: {error}", "unanswered": [*made["unanswered"], str(error)]}
        return made

    def keep(self, data: dict[str, Any]) -> None:
        """This run in the history, when all is judged."""
        try:
            here = night(data)
            fit = not here.no_reference and not here.disturbed
            self.history.add(here, reference=self._save and fit)
            self.history.path.chmod(self._file_mode)
        except (RecordError, HistoryError, OSError) as error:
            self.lines.append(f"this run is not in the history: {clean(str(error))}")
            return
        if self._save:
            why_not = here.no_reference or here.disturbed
            self.lines.append(
                f"not saved as a reference: {why_not}" if why_not else f"saved as a reference: {here.run_id}"
            )


def night(data: Any, name: str = "run.json") -> Night:
    """Of a record, which may be another's, with why it is no reference. Raises RecordError."""
    if not isinstance(data, dict):
        raise RecordError(f"{name}: is not the record of a run")
    why_not, plant = "", data.get("plant")
    if plant:
        why_not = f"it had the plant {plant['name'] if isinstance(plant, dict) and 'name' in plant else plant}"
    elif data.get("exit_status") not in (0, 6):
        why_not = f"it ended {data.get('verdict')} with exit status {data.get('exit_status')}"
    return night_of(data, why_not, name)


def slower(comparison: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The metrics of a comparison that reject the run."""
    metrics = comparison["metrics"] if comparison else []
    return [each for each in metrics if each["word"] == "slower than allowed"]


def told(comparison: dict[str, Any] | None) -> list[str]:
    """A comparison in sentences: its line, each metric that is inconclusive, and why others are not compared. What is
    slower than allowed is among the record's problems."""
    if not comparison or not comparison["line"]:
        return []
    sentences = {word: [each["sentence"] for each in comparison["metrics"] if each["word"] == word] for word in WORDS}
    reasons = Counter(each.partition(" is not compared: ")[2] for each in sentences["not compared"])
    return [
        comparison["line"],
        *sentences["inconclusive"],
        *(f"{count} metric{'s are' if count > 1 else ' is'} not compared: {why}" for why, count in reasons.items()),
    ]
