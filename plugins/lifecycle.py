"""The Run of this process: made at the start, closed before anything is judged, also after Ctrl-C and SIGTERM."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from typing import Any

import pytest

from fixtures.answers.of_all import together
from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.teardown import attempted
from plugins.interruption import INTERRUPTION
from plugins.marks import may_run
from plugins.output import clean, say
from plugins.session import RUN, SETTINGS, Settings, settings_of
from plugins.times import own_processor, waits_since

ALONE = ("destructive", "performance")
RUNNER_RECORD = "runner-{}.json"
ALONE_ON_NODES = ".alone-on-its-nodes"
# longer than an engine takes to end, of which a run may have to end several
TORN_DOWN_WITHIN_S = 300
AFTER_ITS_END: dict[str, Any] = {"transcript": [], "deployments": [], "processor": []}  # they hold the tear-down too
EMPTY = {
    "nodes": [],
    "left_out": [],
    "versions": {},
    "topology": {"components": [], "edges": []},
    "timeline": [],
    "waits": [],
    **AFTER_ITS_END,
}


def pytest_configure(config: pytest.Config) -> None:
    settings = settings_of(config)
    if settings is None:
        return
    if settings.distributing:
        config.pluginmanager.register(Runners(), "acceptance-runners")
    else:
        config.stash[RUN] = config.hook.pytest_acceptance_run(config=config, settings=settings)
        config.add_cleanup(lambda: _close_left_over(config))


def _close_left_over(config: pytest.Config) -> None:
    """For a session that dies before its end; that end has closed the Run otherwise."""
    if RUN in config.stash:
        for error in config.stash[RUN].close():
            print(clean(f"tear-down: {error}"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Checks that break things or measure speed have their nodes for themselves, and from other runners as well.

    A runner leaves its controller a word of that, before xdist tells it what is collected.
    """
    settings, run = settings_of(session.config), session.config.stash.get(RUN, None)
    if settings is None or run is None:
        return
    alone = (item for item in session.items if any(item.get_closest_marker(name) for name in ALONE))
    if any(may_run(item, settings.inventory) for item in alone):
        run.share_no_node()
    if run.exclusive and not settings.writes:
        (settings.report_dir / ALONE_ON_NODES).touch()


def close_run(config: pytest.Config) -> dict[str, Any]:
    """Close this process's Run and return its record, with `tear_down_errors` and `kept`."""
    run = config.stash[RUN]
    record: dict[str, Any] = dict(EMPTY) | {"kept": []}

    def keep(*names: str) -> None:
        told = run.record()
        record.update({name: told[name] for name in names})

    errors = attempted("the run's record could not be made", lambda: keep(*(EMPTY.keys() - {"waits"})))
    errors += attempted("tear-down broke", run.close)
    errors += attempted("the record could not be completed", lambda: keep(*AFTER_ITS_END))
    errors += attempted("what is kept could not be listed", lambda: record.update(kept=run.kept()))
    del config.stash[RUN]
    runner = settings.runner if (settings := settings_of(config)) else ""
    record["waits"] = waits_since(0.0)["waits"]
    for key in ("timeline", "deployments", "waits"):
        record[key] = [entry | {"runner": runner} for entry in record[key]]
    return record | {"processor": [*record["processor"], *own_processor()], "tear_down_errors": errors}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On an xdist runner: close the Run and leave its record for the controller, with the answers that came here."""
    settings = session.config.stash.get(SETTINGS, None)
    if settings is not None and not settings.writes:
        answers: dict[str, Any] = {}
        run = session.config.stash[RUN]
        errors = attempted("the answers were not judged", lambda: answers.update(run.answers().part()))
        record = close_run(session.config) | {"answers": answers}
        record["tear_down_errors"] += errors
        session.config.workeroutput["interrupted"] = session.config.stash[INTERRUPTION].happened  # type: ignore[attr-defined]
        (settings.report_dir / RUNNER_RECORD.format(settings.runner)).write_text(json.dumps(record), encoding="utf-8")


class Runners:
    """Of the xdist controller: the runners that are up. Interrupted, they get the time that their tear-down takes:

    xdist would kill them 10 s after it told them to end, and the first 5 are those of the check that runs.
    """

    def __init__(self) -> None:
        self._up: dict[str, Any] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self._up[node.gateway.id] = node

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._up.pop(node.gateway.id, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if left := self._left():
            say(session.config, f"{' and '.join(left)} tear down; that may take up to {TORN_DOWN_WITHIN_S} s")
            for runner in left:
                self._up[runner].gateway._io.popen.send_signal(signal.SIGINT)
            deadline = Deadline(TORN_DOWN_WITHIN_S, "the runners to tear down")
            with suppress(deadline.Exceeded):  # the record that is missing tells it
                wait_until(lambda: (None if self._left() else True, self._left()), deadline)
        self._take_reports(session.config)

    def _take_reports(self, config: pytest.Config) -> None:
        """What runners have reported and xdist, interrupted, has not read: none of it is lost."""
        events = config.pluginmanager.getplugin("dsession").queue
        while not events.empty():
            name, told = events.get_nowait()
            if name == "testreport":
                told["rep"].node = told["node"]
                config.hook.pytest_runtest_logreport(report=told["rep"])

    def _left(self) -> list[str]:
        """Whose session has not ended, as xdist hears of it also while this process waits."""
        return [runner for runner, node in self._up.items() if not node._down]


def collect_records(
    config: pytest.Config, settings: Settings, runners: list[str], deaths: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """The record of the whole run: this process's own, or those that the xdist runners left, put together, with what
    they say of all `answers` by the check that judges it.

    `deaths`: of a runner that died, where it was and what ended it.
    """
    if not settings.distributing:
        return close_run(config)
    merged: dict[str, Any] = json.loads(json.dumps(EMPTY)) | {"tear_down_errors": [], "kept": []}
    (settings.report_dir / ALONE_ON_NODES).unlink(missing_ok=True)
    answers = []
    for runner in dict.fromkeys([*runners, *deaths]):
        path = settings.report_dir / RUNNER_RECORD.format(runner)
        if not path.is_file():
            where, cause = deaths.get(runner, ("without a word", "cause unknown"))
            merged["tear_down_errors"].append(
                f"runner {runner} ended {where} ({cause}): the watchdogs on the nodes take down what it had"
            )
            continue
        try:
            part = json.loads(path.read_bytes())
        except ValueError as error:
            merged["tear_down_errors"].append(
                f"runner {runner} did not finish its record ({path}: {error}), so its tear-down errors are not known: "
                "look at what still runs on the nodes with `python -m fixtures status`"
            )
            continue
        path.unlink()
        _join(merged["nodes"], part["nodes"])
        merged["versions"] |= part["versions"]
        for key in ("components", "edges"):
            have = merged["topology"][key]
            have += [entry for entry in part["topology"][key] if entry not in have]
        merged["timeline"] += [{**entry, "what": f"{runner}: {entry['what']}"} for entry in part["timeline"]]
        for key in ("transcript", "deployments", "waits", "processor", "tear_down_errors", "kept", "left_out"):
            merged[key] += part[key]
        answers += [part["answers"]] if part["answers"] else []
    merged["transcript"].sort(key=lambda entry: entry["at"])
    return merged | {"answers": together(answers)}


def _join(nodes: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    """Each node once; of what it was busy with, the first and the last look of all runners count."""
    known = {node["name"]: node for node in nodes}
    for node in more:
        if (before := known.get(node["name"])) is None:
            nodes.append(node)
            continue
        for when, chosen in (("begin", min), ("end", max)):
            looks = [each["pace"][when] for each in (before, node) if when in each.get("pace", {})]
            if looks:
                before["pace"] = before.get("pace", {}) | {when: chosen(looks, key=lambda look: look["at_s"])}
