"""report.html: pytest-html's page, with the verdict, the cluster and the modules put before its table."""

from __future__ import annotations

import base64
import csv
import re
from collections import Counter
from collections.abc import Generator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import pytest
from markupsafe import Markup

from fixtures.basics.known_failures import load_known_failures
from fixtures.basics.measurement import Threshold
from fixtures.times.record import parsed
from fixtures.times.tables import critical_path, tables
from plugins import manifest
from plugins.against import told
from plugins.change_chart import change_svg
from plugins.drawing import timeline_svg, topology_svg
from plugins.gantt import gantt_svg
from plugins.not_covered import grouped
from plugins.options import makes_page
from plugins.outcomes import OUTCOMES, first_line
from plugins.record import Recorder, recorder_of
from plugins.session import CHECK, Settings, settings_of
from plugins.summary import again
from plugins.verdict import Verdict

TEMPLATES = Path(__file__).parent.parent / "reports" / "templates"
_NOT_SHOWN = ("looked_at", "clock_s")  # of the facts
# a phone lays a page without it out as wide as a desk's screen
CHARSET, VIEWPORT = '<meta charset="utf-8"/>', '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
ABSENT = {"comparison": None, "resumes": None}  # in records of older suites
ROWS_SHOWN = 200  # of an evidence table; the file has them all
LONG_FRACTION = re.compile(r"-?\d+\.\d{3,}(e[-+]\d+)?")


def pytest_configure(config: pytest.Config) -> None:
    settings = settings_of(config)
    if settings is not None and settings.writes and makes_page(config):
        config.option.css = [*config.getoption("css"), str(TEMPLATES / "report.css")]
        config.pluginmanager.register(Page(), "acceptance-page")


class Page:
    """Hooks of pytest-html; registered only where it is there and writes."""

    def pytest_html_report_title(self, report: Any) -> None:
        self._report = report
        report.title = "Acceptance of a Dynamo cluster"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """After pytest-html has written its page, whose head it lets nobody else write."""
        result = yield
        page = Path(session.config.getoption("htmlpath"))
        if page.is_file():
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(CHARSET, CHARSET + VIEWPORT, 1), encoding="utf-8")
        return result

    def pytest_html_results_summary(self, prefix: list[str], session: pytest.Session) -> None:
        recorder = recorder_of(session.config)
        if recorder is not None and recorder.verdict is not None:
            self._report.title = f"{recorder.verdict.word}: {recorder.settings.run_id}"
            prefix.append(render(recorder))

    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        if getattr(report, "acceptance_outcome", "") == "not_covered":
            cells.clear()  # stands above, with its reason; pytest-html then leaves the row out
            return
        cells[1] = f'<td class="col-testId">{escape(report.nodeid)}</td>'  # pytest-html itself does not escape it


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The evidence is linked from the item's row, also when its set-up failed."""
    report = yield
    state = item.stash.get(CHECK, None)
    if state is not None and report.when == "teardown" and makes_page(item.config):
        from pytest_html import extras

        links = [extras.url(entry["path"], escape(entry["title"])) for entry in state.evidence.entries]
        report.extras = [*getattr(report, "extras", []), *links]  # type: ignore[attr-defined]
    return report


def render(recorder: Recorder) -> str:
    """The HTML of everything before pytest-html's own table."""
    assert recorder.verdict is not None
    junit = getattr(recorder.config.option, "xmlpath", None)
    return page(recorder.data, recorder.verdict, recorder.settings, recorder.config.rootpath, junit=junit)


def environment() -> jinja2.Environment:
    """What the templates of pages are read by."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "facts": facts,
        "rails": rails,
        "bar": bar,
        "bounds": bounds,
        "anchor": anchor,
        "firstline": first_line,
        "number": number,
        "percent": percent,
    }
    return made


def page(
    data: dict[str, Any],
    verdict: Verdict,
    settings: Settings,
    root: Path,
    *,
    junit: str | None = None,
    again_lines: Sequence[str] = (),
) -> str:
    """The HTML of a record that fits reports/run.schema.json; its evidence lies in the folder of `settings`.

    `again_lines`: what was judged otherwise, where it is an old record; `junit`: where junit.xml will be.
    """
    folder, data = settings.report_dir, ABSENT | data
    checks = [
        check
        | {
            "shown": [shown(folder, entry) for entry in check["evidence"]],
            "again": again(settings, check, root),
        }
        for check in data["checks"]
    ]
    modules = {name: [c for c in checks if c["module"] == name] for name in sorted({c["module"] for c in checks})}
    by_outcome = {name: [check for check in checks if check["outcome"] == name] for name in OUTCOMES}
    bad = [check for check in checks if check["outcome"] in ("failed", "error")]
    overviews = [
        (check, entry) for check in checks for entry in check["shown"] if entry.get("overview") and "image" in entry
    ]
    contents = [
        (anchor(title), title)
        for title, there in (
            ("Why", bad),
            ("What else rejected the run", data["problems"]),
            ("Tear-down errors", data["tear_down_errors"]),
            ("Required, and not answered", data["incomplete"]),
            ("Not covered", by_outcome["not_covered"]),
            ("Cluster", True),
            ("All checks", checks),
            ("Overview", overviews),
            ("Compared with an earlier run", told(data.get("comparison"))),
            ("Failed", bad),
            ("Known defects", by_outcome["known_defect"]),
            ("Blocked by hardware", by_outcome["blocked_by_hardware"]),
            ("Kept running", data["kept"]),
            ("Nodes", True),
            ("Time", True),
            ("Files", True),
        )
        if there
    ]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            run=data,
            verdict=verdict,
            again_lines=again_lines,
            checks=checks,
            bad=bad,
            overviews=overviews,
            not_covered=grouped(checks, settings, root),
            by_outcome=by_outcome,
            modules={name: (Counter(c["outcome"] for c in inside), inside) for name, inside in modules.items()},
            catalogue=load_known_failures(),
            compared=told(data.get("comparison")),
            change_chart=Markup(change_svg(data.get("comparison"))),
            topology=Markup(topology_svg(data["topology"], [node["name"] for node in data["nodes"]])),
            timeline=Markup(timeline_svg(data["timeline"])),
            **time_parts(data),
            files=files(folder, junit),
            contents=contents,
            script=Markup((TEMPLATES / "filter.js").read_text(encoding="utf-8")),
        )
    )


def time_parts(data: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of the run's time."""
    times = parsed(data, "run.json")
    return {"gantt": Markup(gantt_svg(times)), "tables": tables(times), "critical_path": critical_path(times)}


def anchor(title: str) -> str:
    """The fragment of an address that leads to a part of the page."""
    return re.sub(r"\W+", "-", title.lower())


def shown(folder: Path, entry: dict[str, str]) -> dict[str, Any]:
    """An evidence entry with what the page shows of it: rows of a table, the drawing as an image."""
    path = folder / entry["path"]
    if not path.is_file():
        return {**entry, "kind": "gone"}
    if entry["kind"] == "table":
        with path.open(encoding="utf-8", newline="") as lines:
            head, *rows = list(csv.reader(lines)) or [[]]
        cells = [[rounded(cell) for cell in row] for row in rows[:ROWS_SHOWN]]
        return {**entry, "head": head, "rows": cells, "more": max(0, len(rows) - ROWS_SHOWN)}
    if entry["kind"] == "note":
        return {**entry, "lines": path.read_text(encoding="utf-8").splitlines()}
    if entry["kind"] == "svg":
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
        return {**entry, "image": f"data:image/svg+xml;base64,{encoded}"}
    return dict(entry)


def rounded(cell: str) -> str:
    """A number with a long fraction to five digits, anything else as it is; the table's file has all digits."""
    if not LONG_FRACTION.fullmatch(cell):
        return cell
    return f"{float(cell):.5g}" if abs(float(cell)) < 100_000 else f"{float(cell):.0f}"


def files(folder: Path, junit: str | None) -> list[str]:
    """What else lies in the run's folder, besides the evidence that the checks link; some of it is made later."""
    made_later = [manifest.FILE, *([Path(junit).name] if junit and Path(junit).parent == folder else [])]
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    other = {name for name in found if not name.startswith("evidence/") and name != "report.html"}
    return sorted(other.union(made_later))


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What the probes found on a node, flat: name and text."""
    flat = []
    for name, value in found.items():
        if not isinstance(value, dict):
            flat.append((name, _text(value)))
            continue
        for inner, detail in value.items():
            if inner not in _NOT_SHOWN:
                flat.append((name if inner == "found" else f"{name} {inner}", _text(detail)))
    return flat


def rails(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The RDMA devices that the probes found on a node: name, and the state, link and rate of their ports."""
    devices = found.get("rdma", {}).get("found")
    if not devices:
        return [("RDMA", "not known" if devices is None else "no device")]
    return [(device["name"], _text(device["ports"])) for device in devices]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(_text(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return ", ".join(_text(inner) for inner in value) or "none"
    return "none" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value).strip()


def number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} %"


def bounds(measurement: dict[str, Any]) -> str:
    """The threshold as text, without its unit, which stands beside the value."""
    limits = measurement["threshold"]
    return "no threshold" if limits is None else str(Threshold(unit="", **limits))


def bar(measurement: dict[str, Any]) -> dict[str, float] | None:
    """Percent of a bar: where the value ends and where the bounds lie. None where a bar would say nothing."""
    limits, value = measurement["threshold"], measurement["value"]
    if limits is None or limits["recorded"] or value is None or value < 0:
        return None
    low, high = limits["min"], limits["max"]
    if (low is not None and low < 0) or (high is not None and high <= 0):
        return None
    full = 1.25 * (high if high is not None else max(low * 1.6, value))
    if full <= 0:
        return None
    marks = {name: 100 * limit / full for name, limit in (("low", low), ("high", high)) if limit}
    return {"value": min(100.0, 100 * value / full), **marks}
