"""Under xdist each module package stays on one runner: its deployment comes up once, its checks keep their order.

Checks that wait long for a deployment of their own begin first, wherever a runner is free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from plugins.lifecycle import ALONE_ON_NODES
from plugins.record import RECORDER
from plugins.runner_deaths import RunnerDeaths
from plugins.session import settings_of

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # xdist is switched off or absent: then nothing asks for a scheduler
    LoadScopeScheduling = object

ALL_ON_ONE = (
    "all checks stay on one runner: some of them have their nodes for themselves (on GPUs, destructive or performance)"
)


class LongWaitsFirst(OrderedDict[str, dict[str, bool]]):
    """The tests that wait for a runner, by scope; those of `first` are given out before all others."""

    def __init__(self, first: set[str]) -> None:
        super().__init__()
        self._first = first

    def popitem(self, last: bool = True) -> tuple[str, dict[str, bool]]:
        if not last and (waits := next((scope for scope in self if scope in self._first), None)):
            return waits, self.pop(waits)
        return super().popitem(last)


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """The scope of a test is its module package; of a test outside tests_by_module, its file; of a long wait, itself.

    All are one scope where a check has its nodes for itself. What a runner that died leaves goes on in another runner,
    without the test that ran.
    """

    def __init__(self, config: pytest.Config, log: Any, deaths: RunnerDeaths) -> None:
        super().__init__(config, log)
        self._deaths = deaths
        self._alone = False
        settings = settings_of(config)
        assert settings is not None
        self._long_waits = {check.node_id for check in settings.known if check.marked("long_wait")}
        self.workqueue = LongWaitsFirst(self._long_waits)

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
        if nodeid in self._long_waits:
            return nodeid
        parts = nodeid.split("::")[0].split("/")
        return "/".join(parts[:2] if parts[0] == TESTS else parts)

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
