"""The fixtures `measure` and `evidence`: what a check leaves behind before it is judged."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import pytest

from fixtures.measure import Measurement, Threshold, judge
from fixtures.redact import redact
from plugins.session import CHECK, CheckState, settings_of


class Measure:
    """Records numbers at once, and judges them all together against the module's thresholds.yaml.

    >>> measure("cold_start_s", 3.2)
    >>> measure.judge()
    """

    def __init__(self, state: CheckState, thresholds: dict[str, Threshold]) -> None:
        self._state = state
        self._thresholds = thresholds

    def __call__(self, name: str, value: float | None, n: int = 1) -> Measurement:
        """Record `value` (in the threshold's unit; None: nothing could be measured) over `n` samples."""
        if any(name == earlier.name for earlier in self._state.measurements):
            raise ValueError(f"{self._state.check_id}: {name!r} is measured already; give each number its own name")
        measurement = Measurement(name, value, n, self._thresholds.get(name))
        self._state.measurements.append(measurement)
        return measurement

    def judge(self) -> None:
        """Raise AssertionError with every measurement that is out of bounds."""
        __tracebackhide__ = True
        self._state.judged = len(self._state.measurements)
        judge(self._state.measurements)


class Evidence:
    """Keeps what a check saw: files in the run's folder, linked from the report. Secrets are redacted."""

    def __init__(self, state: CheckState) -> None:
        self._state = state

    def text(self, name: str, content: str) -> None:
        """Keep a log, a metrics page, a dump of keys: shown as a link."""
        self._keep("text", name, "txt", content)

    def note(self, title: str, content: str) -> None:
        """Keep sentences that a reader should meet: shown in the report as they are, a paragraph for each line."""
        self._keep("note", title, "txt", content)

    def table(self, title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Keep a table: shown in the report, and a CSV file."""
        lines = io.StringIO()
        csv.writer(lines).writerows([headers, *rows])
        self._keep("table", title, "csv", lines.getvalue())

    def svg(self, title: str, svg: str) -> None:
        """Keep a drawing, one complete <svg> element: shown in the report as an image (no script in it runs)."""
        self._keep("svg", title, "svg", svg)

    def nodes(self, *names: str) -> None:
        """Say which nodes the check was about."""
        self._state.nodes += [name for name in names if name not in self._state.nodes]

    def _keep(self, kind: str, title: str, suffix: str, content: str) -> None:
        folder = self._state.evidence_dir
        folder.mkdir(parents=True, exist_ok=True)
        title = redact(title)
        slug = slugify(title)
        path, number = folder / f"{slug}.{suffix}", 1
        while path.exists():
            number += 1
            path = folder / f"{slug}-{number}.{suffix}"
        path.write_text(redact(content), encoding="utf-8", errors="backslashreplace", newline="")
        relative = path.relative_to(folder.parent.parent).as_posix()
        self._state.evidence.append({"kind": kind, "title": title, "path": relative})


def slugify(text: str) -> str:
    """A file name that every file system and every address takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "evidence"


def _state(request: pytest.FixtureRequest) -> CheckState:
    state = request.node.stash.get(CHECK, None)
    if state is None:
        raise pytest.UsageError(f"{request.node.nodeid}: measure and evidence are for checks in tests_by_module")
    return state


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Records measurements of this check and judges them."""
    state = _state(request)
    settings = settings_of(request.config)
    assert settings is not None
    return Measure(state, settings.thresholds.get(state.check_id, {}))


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Keeps what this check saw."""
    return Evidence(_state(request))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What was measured and never judged is judged when the check ends."""
    __tracebackhide__ = True
    result = yield
    state = pyfuncitem.stash.get(CHECK, None)
    if state is not None and state.judged < len(state.measurements):
        judge(state.measurements)
    return result
