"""Before the first check: how long the run may take, by earlier ones among the reports."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.basics.check_source import TESTS
from fixtures.times.estimate import Asked, earlier, said
from plugins.allocation import require_time
from plugins.output import say
from plugins.record import Recorder, recorder_of


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    recorder = recorder_of(session.config)
    if recorder is not None and not recorder.settings.distributing:
        tell(recorder)


class OnceCollected:
    """On the xdist controller, which collects nothing itself."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._told = recorder, False

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self._told:
            self._told = True
            tell(self._recorder)


def tell(recorder: Recorder) -> None:
    settings = recorder.settings
    checks = (recorder.unfinished(node_id, "") for node_id in recorder.selected if node_id.startswith(f"{TESTS}/"))
    asked = Asked(
        settings.inventory.fingerprint,
        frozenset((check["id"], check["case"]) for check in checks),
        settings.distributing,
    )
    took_s = earlier(settings.report_dir.parent, asked)
    if line := said(took_s):
        say(recorder.config, line)
    require_time(recorder.config, took_s)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    recorder = recorder_of(config)
    if recorder is not None and recorder.settings.distributing:
        config.pluginmanager.register(OnceCollected(recorder), "acceptance-estimate")
