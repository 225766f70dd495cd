"""Which runner does what under xdist, and how many there are where `-n` does not say it.

Each module package stays on one runner: its deployment comes up once, its checks keep their order. A check that waits
long for a deployment of its own goes to any runner. What takes longest begins first, by earlier runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from fixtures.times.estimate import usual_s
from fixtures.times.settings import USUAL_CHECK_S, USUAL_LONG_WAIT_S
from plugins.lifecycle import ALONE_ON_NODES
from plugins.options import inventory_of, is_under_test, only_shows
from plugins.record import RECORDER
from plugins.runner_deaths import RunnerDeaths
from plugins.session import settings_of
from plugins.site_checks import argument_paths, site_checks

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # xdist is switched off or absent: then nothing asks for a scheduler
    LoadScopeScheduling = object

# with more than that before it, nobody knows yet which runner is free first
LONG_S = 3
# options of pytest and of the suite, by the name of their value: a run of some checks, and one that somebody watches
SELECTS = ("keyword", "markexpr", "deselect", "lf", "stepwise", "resume", "plant")
LOOKED_AT = ("keep", "dry_run", "usepdb", "trace")
ALL_ON_ONE = (
    "all checks stay on one runner: some of them have their nodes for themselves (on GPUs, destructive or performance)"
)


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """The scope of a test is its module package; of a test outside tests_by_module, its file; of a long wait, itself,
    or its file where that says `together`.

    All are one scope where a check has its nodes for itself. What a runner that died leaves goes on in another runner,
    without the test that ran.
    """

    def __init__(self, config: pytest.Config, log: Any, deaths: RunnerDeaths) -> None:
        super().__init__(config, log)
        self._deaths = deaths
        self._alone = False
        settings = settings_of(config)
        assert settings is not None
        self._long_waits = {
            check.node_id: check.path if mark.get("together") else check.node_id
            for check in settings.known
            for mark in check.marked("long_wait")
        }
        self._ids = {check.node_id: check.id for check in settings.known}
        self._usual_s = usual_s(settings.report_dir.parent, settings.inventory.fingerprint)

    def schedule(self) -> None:
        settings = settings_of(self.config)
        assert settings is not None
        if self.collection is None and (settings.report_dir / ALONE_ON_NODES).exists():
            self._alone = True
            if self.numnodes > 1 and (terminal := self.config.pluginmanager.getplugin("terminalreporter")):
                terminal.write_line(ALL_ON_ONE)
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        if self._alone:
            return TESTS
        if scope := self._long_waits.get(nodeid.partition("[")[0]):
            return scope
        parts = nodeid.split("::")[0].split("/")
        return "/".join(parts[:2] if parts[0] == TESTS else parts)

    def _assign_work_unit(self, node: Any) -> None:
        """xdist gives a runner its next scope before the last test of the one before it begins.

        So a runner that has long to do is bound to the scope that is done soonest, else to the longest.
        """
        left_s = sum(map(self._takes_s, self.assigned_work[node].values()))
        choose: Callable[..., str] = min if left_s > LONG_S else max
        scope = choose(self.workqueue, key=lambda scope: self._takes_s(self.workqueue[scope]))
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _takes_s(self, unit: dict[str, bool]) -> float:
        """What has not ended of these tests."""
        return sum(self._usually_takes_s(nodeid) for nodeid, ended in unit.items() if not ended)

    def _usually_takes_s(self, nodeid: str) -> float:
        function, _, case = nodeid.partition("[")
        unknown_s = USUAL_LONG_WAIT_S if function in self._long_waits else USUAL_CHECK_S
        return self._usual_s.get((self._ids.get(function, nodeid), case.removesuffix("]")), unknown_s)

    def remove_node(self, node: Any) -> str | None:
        """Returns the test that the runner ran when it died."""
        units = self.assigned_work.pop(node)
        if self.collection is None:  # it counts for those that are waited for until the first schedule
            self.registered_collections.pop(node, None)
        crashed = None
        for scope, unit in units.items():
            for nodeid in [nodeid for nodeid, completed in unit.items() if not completed]:
                if self._deaths.is_running(nodeid):
                    crashed = nodeid
                unit[nodeid] = nodeid == crashed or self._deaths.has_ended(nodeid)
            if not all(unit.values()):  # a runner that is given nothing to do is never asked for more
                self.workqueue[scope] = unit
                self.workqueue.move_to_end(scope, last=False)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            self.workqueue.clear()
            self.config.stash[RECORDER].problems.append(
                f"runner {node.gateway.id} collected other tests than the runners before it: "
                "files changed while the run went on, and what was left of it did not run"
            )

    def _reschedule(self, node: Any) -> None:
        if node in self.registered_collections:  # else it comes back when it has collected
            super()._reschedule(node)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A run of all modules has as many runners as its inventory says, where `-n` says nothing."""
    told = hasattr(config, "workerinput") or config.getoption("numprocesses", 0) is not None or config.getoption("tx")
    if not told and _runs_all(config) and (runners := inventory_of(config).cluster.dynamo_runners) > 1:
        config.option.numprocesses = runners


def _runs_all(config: pytest.Config) -> bool:
    if not is_under_test(config) or only_shows(config) or config.getoption("capture", "") == "no":
        return False
    site = site_checks(config)
    all_there_are = {config.rootpath / TESTS, *([site.folder] if site else [])}
    return set(argument_paths(config)) == all_there_are and not any(
        config.getoption(name, None) for name in (*SELECTS, *LOOKED_AT)
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Checks of what the whole run has seen come last; under xdist the last of their module, and the recorder adds
    what other runners saw."""
    items.sort(key=lambda item: item.get_closest_marker("at_end") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if settings_of(config) is None:
        return None
    config.pluginmanager.register(deaths := RunnerDeaths(config), "acceptance-runner-deaths")
    return ModuleScheduling(config, log, deaths)
