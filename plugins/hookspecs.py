"""Hooks that the policy calls, so that another Run can be put in its place.

An inner conftest.py may say::

    def pytest_acceptance_run(config, settings):
        return FakeRun()
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from plugins import refuse_parts
from plugins.terminal import clean

if TYPE_CHECKING:
    from plugins.keys import Settings


NEW_LINE = "\n"


class Specs:
    @pytest.hookspec(firstresult=True)
    def pytest_acceptance_run(self, config: pytest.Config, settings: "Settings") -> Any:
        """Return the Run of this process: capabilities(), record(), close(), exclusive, waits; see fixtures/run.py."""


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
        report_dir=settings.report_dir,
        plant=settings.plant,
        keep=settings.keep,
        seed=settings.seed,
        progress=_past_the_capture(config),
    )


def _past_the_capture(config: pytest.Config) -> Callable[[str], None]:
    """Shows a line at once, although pytest keeps what a test prints."""
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")  # not on an xdist runner

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            if terminal:
                terminal.ensure_newline()
                terminal.flush()
            # the controller's line of dots may stand where a runner writes
            print(f"{'' if terminal else NEW_LINE}{clean(text)}", file=sys.stderr, flush=True)

    return show
