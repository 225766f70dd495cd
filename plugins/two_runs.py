"""Pages over several runs: two side by side, and the index of all with their trend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fixtures.nights.chart import labels, numbers, trend
from fixtures.nights.comparison import Refused, alike, compare, differences
from fixtures.nights.night import Night
from plugins.against import night
from plugins.change_chart import change_svg
from plugins.report import TEMPLATES, environment
from plugins.verdict import label

MOST_RUNS, MOST_METRICS = 200, 60  # in the index


def standalone(title: str, body: str) -> str:
    """A page of its own, which opens offline."""
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment().get_template("standalone.html.j2").render(title=title, css=Markup(css), body=Markup(body))


def two_runs(before: dict[str, Any], after: dict[str, Any], earlier: Sequence[Night] = ()) -> str:
    """The page that compares two records; `earlier` runs show how far a figure scatters. Raises RecordError."""
    old, new = night(before), night(after)
    try:
        comparison: dict[str, Any] | None = compare(old, new, alike(new, earlier)).record()
        refused = ""
    except Refused as error:
        comparison, refused = None, str(error)
    outcomes = {label(check): check for check in before["checks"]}
    rows = []
    for check in after["checks"]:
        then = outcomes.pop(label(check), None)
        if then is None or then["outcome"] != check["outcome"]:
            rows.append((check, then["outcome"] if then else "", check["outcome"]))
    rows += [(check, check["outcome"], "") for check in outcomes.values()]
    body = (
        environment()
        .get_template("two-runs.html.j2")
        .render(
            before=before,
            after=after,
            differences=differences(old, new),
            refused=refused,
            comparison=comparison,
            chart=Markup(change_svg(comparison)),
            rows=rows,
            times=_times(before, after),
        )
    )
    return standalone(f"{before['run_id']} and {after['run_id']}", body)


def _times(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, float, float]]:
    """The checks whose time changed most, in seconds."""
    took = {label(check): check["duration_s"] for check in before["checks"] if check["outcome"] == "passed"}
    pairs = [
        (label(check), took[label(check)], check["duration_s"])
        for check in after["checks"]
        if check["outcome"] == "passed" and label(check) in took
    ]
    return sorted(pairs, key=lambda each: -abs(each[2] - each[1]))[:12]


def index(nights: list[Night], references: list[str], reports: Path) -> str:
    """The page of all runs in the history, the newest first, with the trend of their metrics."""
    shown = nights[-MOST_RUNS:]
    chosen = labels(shown)[:MOST_METRICS]
    body = (
        environment()
        .get_template("index.html.j2")
        .render(
            nights=[
                (each, each.run_id in references, f"{each.run_id}/report.html", (reports / each.run_id).is_dir())
                for each in reversed(shown)
            ],
            chart=Markup(trend(shown, references, chosen)) if chosen else "",
            numbers=numbers(shown, chosen),
        )
    )
    return standalone("Runs", body)
