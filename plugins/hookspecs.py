"""Hooks that the policy calls, so that another Run can be put in its place.

An inner conftest.py may say::

    def pytest_acceptance_run(config, settings):
        return FakeRun()
"""

import functools
from typing import TYPE_CHECKING, Any

import pytest

from plugins import refuse_parts
from plugins.output import show_at_once

if TYPE_CHECKING:
    from plugins.session import Settings


class Specs:
    @pytest.hookspec(firstresult=True)
    def pytest_acceptance_run(self, config: pytest.Config, settings: "Settings") -> Any:
        """Return the Run of this process: capabilities(), history, answers(), record(), close(), share_no_node(),
        causes, deaths, deployments, exclusive, silence, suspect(), waits; see fixtures/run/run.py."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    refuse_parts(pluginmanager)
    pluginmanager.add_hookspecs(Specs)


@pytest.hookimpl(trylast=True)
def pytest_acceptance_run(config: pytest.Config, settings: "Settings") -> Any:
    from fixtures.run import Run

    return Run(
        settings.inventory,
        run_id=settings.run_id,
        runner=settings.runner,
        runners=settings.runners,
        report_dir=settings.report_dir,
        stages=settings.plant() if settings.plant else None,
        keep=settings.keep,
        seed=settings.seed,
        progress=functools.partial(show_at_once, config),
    )
