"""From what pytest saw to one of the closed list of outcomes; the check's record travels on the tear-down report."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest

from fixtures.basics.check_source import title_of
from fixtures.basics.errors import BlockedByHardware, BringUpFailed, CouldNotLook, NotOffered, ProcessEnded
from fixtures.basics.evidence import Evidence, slugify
from fixtures.basics.findings import FoundWrong
from fixtures.basics.known_failures import load_known_failures
from fixtures.basics.measure import Measure
from fixtures.basics.versioned_table import covers
from fixtures.nights.workload import workload
from plugins import causes
from plugins.durations import shared_setup_s
from plugins.interruption import INTERRUPTION
from plugins.marks import arguments, each_arguments, id_of, module_of
from plugins.output import clean, clean_report
from plugins.session import CHECK, RUN, SAID_BY, TOLD, WAITED_S, CheckState, settings_of
from plugins.times import NO_TIMES, times_of
from plugins.verdict import label

OUTCOMES = ("passed", "failed", "error", "not_covered", "blocked_by_hardware", "known_defect")
_WORDS = {
    "error": ("error", "E", "ERROR"),
    "not_covered": ("not covered", "n", "NOT COVERED"),
    "blocked_by_hardware": ("blocked by hardware", "b", "BLOCKED BY HARDWARE"),
    "known_defect": ("known defect", "k", "KNOWN DEFECT"),
}
LINE = 200  # characters of another check's reason
INTERRUPTED = "interrupted before it ended"
# nothing has judged the check: an option or a plugin of pytest kept it from running
NOT_RUN = "it was not run to its end, so nothing is known of it"


def case_of(item: pytest.Item) -> str:
    """The parameters of this case, "" for a test without."""
    callspec = getattr(item, "callspec", None)
    return callspec.id if callspec else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    settings = settings_of(session.config)
    told = session.config.stash[TOLD] = set()
    session.config.stash[SAID_BY] = {}
    for item in session.items:
        if settings is None or module_of(item) is None:
            continue
        check_id = id_of(item)
        if not session.config.getoption("maxfail"):  # else the check may not be reached
            told.add(check_id)
        case = case_of(item)
        folder = f"{check_id}-{slugify(case)}" if case else check_id
        item.stash[CHECK] = CheckState(
            check_id,
            Measure(check_id, settings.thresholds.get(check_id, {})),
            Evidence(settings.report_dir / "evidence" / folder),
        )
        item.user_properties.append(("check", check_id))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    clean_report(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Notes that the test's function itself came to its end, whatever other plugins make of the call."""
    __tracebackhide__ = True
    if (state := pyfuncitem.stash.get(CHECK, None)) is not None:
        function = pyfuncitem.obj

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> object:
            __tracebackhide__ = True
            result = function(*args, **kwargs)
            state.returned = not inspect.isawaitable(result)
            return result

        pyfuncitem.obj = noted
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    state = item.stash.get(CHECK, None)
    if state is None:
        return report
    clean_report(report)
    report.duration = max(0.0, report.duration - _waited_s(item.config))
    state.duration_s += report.duration
    state.phases[f"{report.when}_s"] = call.duration
    if report.outcome != "passed" or hasattr(report, "wasxfail"):
        outcome, reason = _outcome(item, state, report, call)
        reason = clean(reason)
        if interrupted := item.config.stash[INTERRUPTION].happened:
            outcome, reason = "error", f"{INTERRUPTED} ({reason})"
        if report.when == "teardown":
            outcome, reason = "error", f"tear-down: {reason}"
        if outcome == "failed" and state.missing is None and (defects := _known_defects(item)):
            if defect := next((each for each in defects if re.search(each["shows"], reason)), None):
                outcome, reason = "known_defect", f"{defect['issue']}: {defect['reason']} — seen now: {reason}"
            else:
                reason += "".join(
                    f" — not the known defect {each['issue']}, which says: {each['shows']}" for each in defects
                )
        if state.outcome in (None, "passed", "not_covered", "blocked_by_hardware", "known_defect"):
            state.outcome, state.reason = outcome, reason
        if outcome in ("failed", "error") and state.found_causes is None and not interrupted:
            state.found_causes = causes.look(item, state, call.excinfo.value if call.excinfo else None, reason)
            if said := causes.lines(state.found_causes):
                report.sections.append(("causes found", "\n".join(said)))
        _show(report, outcome, reason)
    elif report.when == "call" and state.returned and state.outcome is None:
        state.outcome = "passed"
    always = [it for it in _known_defects(item, all) if not it.get("sometimes")] if state.outcome == "passed" else []
    if report.when == "call" and (defects := always):
        state.outcome = "failed"
        known = (f"{each['issue']} ({each['reason']}) is said to hold for {each['versions']}" for each in defects)
        state.reason = f"unexpectedly passes: {'; '.join(known)}"
        report.outcome, report.longrepr = "failed", state.reason
        report.acceptance_outcome = "failed"  # type: ignore[attr-defined]
    if report.when == "teardown":
        if state.outcome is None:
            state.outcome, state.reason = "error", NOT_RUN
            _show(report, state.outcome, state.reason)
        report.acceptance = record_of(item, state)  # type: ignore[attr-defined]
    return report


def _waited_s(config: pytest.Config) -> float:
    """For other runs, since it was asked last: that is no check's time."""
    before = config.stash.get(WAITED_S, 0.0)
    config.stash[WAITED_S] = sum(wait["duration_s"] for wait in config.stash[RUN].waits)
    return config.stash[WAITED_S] - before


def _outcome(
    item: pytest.Item, state: CheckState, report: pytest.TestReport, call: pytest.CallInfo[None]
) -> tuple[str, str]:
    error = call.excinfo.value if call.excinfo else None
    if report.skipped or hasattr(report, "wasxfail"):
        if state.skip_reason is not None:
            return "not_covered", state.skip_reason
        why = getattr(report, "wasxfail", None) or _last_line(report)
        return "error", f"skipped or excused by something that is not the capability plugin: {why}"
    if isinstance(error, FoundWrong):
        state.findings = error.findings
        state.evidence.nodes(*(finding.node for finding in error.findings if finding.node))
    if isinstance(error, BlockedByHardware):
        return "blocked_by_hardware", str(error)
    if isinstance(error, ProcessEnded):
        error.is_failure_of(state.check_id)
    if isinstance(error, BringUpFailed):
        if error.check_id == state.check_id:
            item.config.stash[SAID_BY][error.check_id, error.reason] = state.check_id
            return "failed", error.reason
        report.longrepr = reason = _blocked(error, label({"id": state.check_id, "case": case_of(item)}), item.config)
        return "error", reason
    if isinstance(error, NotOffered):
        return "not_covered", str(error)
    if isinstance(error, CouldNotLook):
        return "error", f"could not look: {error}"
    reason = _last_line(report) if error is None else str(error) or type(error).__name__
    reason = reason.split("\nassert ")[0]  # pytest's own explanation follows the message; the log keeps it
    if not isinstance(error, AssertionError | pytest.fail.Exception | None):
        reason = f"{type(error).__name__}: {reason}"
    return ("failed" if report.when == "call" else "error"), reason


def _blocked(error: BringUpFailed, name: str, config: pytest.Config) -> str:
    """By which check; and why, or which check has said so. `name` is that of the check that is blocked.

    Why is one line where the whole reason stands at the check that owns it.
    """
    said_by, failure = config.stash[SAID_BY], (error.check_id, error.reason)
    if failure in said_by:
        return f"blocked by {error.check_id}: see {said_by[failure]}"
    said_by[failure] = name
    if error.check_id not in config.stash[TOLD]:
        return str(error)
    line = first_line(error.reason)
    return f"blocked by {error.check_id}: {line if len(line) <= LINE else line[: LINE - 1] + '…'}"


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"


def _last_line(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    lines = report.longreprtext.strip().splitlines()
    return lines[-1] if lines else ""


def _known_defects(item: pytest.Item, of: Callable[[Iterable[bool]], bool] = any) -> list[dict[str, Any]]:
    """The item's known defects that are said to hold for the engines under test and for `any` or `all` of its versions:
    where frontends and workers are of two, it is not known whose defect it is. Checks of `columns` ask every engine."""
    marked, settings = each_arguments(item, "known_defect"), settings_of(item.config)
    if not marked or settings is None:
        return []
    run, inventory = item.config.stash[RUN], settings.inventory
    serving = [inventory.runtime(each.worker_runtime) for each in inventory.with_role("worker")]
    every = "columns" in getattr(item, "fixturenames", ())
    engines = {each.engine for each in (inventory.engines if every or not serving else serving)}
    under_test = {run.product_version(), run.worker_version()}
    holds = [it for it in marked if of(covers(it["versions"], version) for version in under_test)]
    return [it for it in holds if it.get("engine") in (None, *engines)]


def _show(report: pytest.TestReport, outcome: str, reason: str) -> None:
    """Make pytest's own views (terminal, JUnit XML, HTML rows) agree with the outcome."""
    report.acceptance_outcome = outcome  # type: ignore[attr-defined]
    path, line, _ = report.location
    if outcome == "known_defect":
        report.outcome = "skipped"
        report.wasxfail = reason
    elif outcome in ("not_covered", "blocked_by_hardware"):
        report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, reason)
    elif report.outcome != "failed" or hasattr(report, "wasxfail"):
        report.__dict__.pop("wasxfail", None)
        report.outcome, report.longrepr = "failed", reason


def blank_record(check_id: str, case: str, module: str | None, title: str) -> dict[str, Any]:
    """A check's entry in run.json before anything is known of how it went."""
    return {
        "id": check_id,
        "case": case,
        "module": module,
        "title": title,
        "outcome": "error",
        "reason": "",
        "covered_by": None,
        "findings": [],
        "nodes": [],
        "duration_s": 0.0,
        "shared_setup_s": 0.0,
        "measurements": [],
        "evidence": [],
        "by_hand": "",
        "found_causes": [],
        "causes": [],
        "workload": "",
        **NO_TIMES,
    }


def record_of(item: pytest.Item, state: CheckState) -> dict[str, Any]:
    """The check's entry in run.json."""
    settings = settings_of(item.config)
    assert settings is not None
    check = arguments(item, "check") or {}
    function = getattr(item, "function", None)
    all_nodes = [node.name for node in settings.inventory.nodes]
    title = title_of(getattr(item, "originalname", item.name), getattr(function, "__doc__", None))
    return blank_record(state.check_id, case_of(item), module_of(item), title) | {
        "outcome": state.outcome,
        "reason": state.reason,
        "covered_by": state.covered_by,
        "findings": [{"text": clean(each.text), "node": each.node} for each in state.findings],
        "nodes": state.evidence.node_names or (all_nodes if len(all_nodes) == 1 else []),
        "duration_s": round(state.duration_s, 4),
        "shared_setup_s": round(shared_setup_s(item), 4),
        "measurements": [measurement.as_dict() for measurement in state.measure.measurements],
        "evidence": list(state.evidence.entries),
        "by_hand": check.get("by_hand", ""),
        "found_causes": state.found_causes or [],
        "causes": [n for n in check.get("causes", ()) if load_known_failures()[n].is_possible(settings.inventory)],
        "workload": workload(item.path),
        **times_of(state, settings.runner),
    }


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    return _WORDS.get(getattr(report, "acceptance_outcome", ""))
