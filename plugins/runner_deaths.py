"""A runner of xdist that dies: the check that ran then is told once, as an error with the cause."""

from __future__ import annotations

import copy
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from fixtures.basics.deadline import pause
from plugins.outcomes import INTERRUPTED
from plugins.record import RECORDER
from plugins.verdict import label

# closed pipes tell xdist of a process that ended; both are longer than the last words of a process take to be read
ENDS_WITHIN_S, TOLD_WITHIN_S = 5, 10
NEXT_PHASE = {"setup": "call", "call": "teardown", "teardown": None}


class RunnerDeaths:
    """Of the xdist controller: in which phase each test is, and what ended a runner that did not end by itself."""

    def __init__(self, config: pytest.Config) -> None:
        self._recorder = config.stash[RECORDER]
        self._hook = config.hook
        self._xdist = config.pluginmanager.getplugin("dsession")
        self._phases: dict[str, str | None] = {}  # node id of a test that began -> its phase, None when it has ended
        self._collected: set[str] = set()  # runners

    def is_running(self, nodeid: str) -> bool:
        return self._phases.get(nodeid) is not None

    def has_ended(self, nodeid: str) -> bool:
        return self._phases.get(nodeid, "not begun") is None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._phases[nodeid] = "setup"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        set_up = report.when != "setup" or report.passed
        self._phases[report.nodeid] = NEXT_PHASE[report.when] if set_up else "teardown"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        threading.Thread(target=_tell_xdist_of_its_end, args=(node,), daemon=True).start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        self._collected.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error and not hasattr(node, "workeroutput"):
            where = "between two checks" if node.gateway.id in self._collected else "before it had collected"
            self._recorder.deaths[node.gateway.id] = (where, _cause(node.gateway._io.popen))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Give xdist's report, which is of no phase, the shape of a test that failed in a phase and was torn down.

        Terminal, page and JUnit XML each show that, and each leave out something of another shape.
        """
        recorder, runner, name = self._recorder, report.node.gateway.id, crashitem.rpartition("::")[2]
        check = recorder.unfinished(crashitem, "") if crashitem.startswith(f"{TESTS}/") else None
        report.when = phase = self._phases[crashitem]  # type: ignore[assignment]
        report.location = (report.location[0], None, name)
        report.longrepr = reason = INTERRUPTED
        if runner in recorder.deaths:
            cause = recorder.deaths[runner][1]
            recorder.deaths[runner] = (f"in {label(check) if check else name}", cause)
            report.longrepr = reason = f"the runner ended while this check ran ({phase}): {cause}"
        report.acceptance_outcome = "error"  # type: ignore[attr-defined]
        self._xdist._handlefailures(report)  # it counts what runners report, for -x and --maxfail
        if phase != "teardown":
            self._hook.pytest_runtest_logreport(report=copy.copy(report))
            del report.acceptance_outcome
            report.when, report.outcome, report.longrepr = "teardown", "passed", None
        if check:
            report.acceptance = check | {"reason": reason}  # type: ignore[attr-defined]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        begun, allowed = self._phases.keys(), self._xdist._max_worker_restart
        if allowed is not None and len(self._recorder.deaths) > allowed and (left := self._recorder.selected - begun):
            self._recorder.problems.append(
                f"{len(left)} selected checks did not run: {len(self._recorder.deaths)} runners ended, "
                f"and --max-worker-restart lets {allowed} be replaced"
            )


def _tell_xdist_of_its_end(node: Any) -> None:
    """Where its pipes do not: a process that the runner forked keeps them open."""
    from xdist.workermanage import Marker

    node.gateway._io.wait()
    pause(TOLD_WITHIN_S, "the last words to be read")
    node.process_from_remote(Marker.END)  # nothing where it has been told


def _cause(process: subprocess.Popen[bytes]) -> str:
    """How the process of a runner ended whose pipes are closed. It is killed where it lives on without them."""
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(ENDS_WITHIN_S)
        if status >= 0:
            return f"exit status {status}"
        names = {number.value: f" ({number.name})" for number in signal.Signals}
        return f"killed by signal {-status}{names.get(-status, '')}"
    process.kill()
    return "its connection to pytest was lost"
