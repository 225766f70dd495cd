"""The end of a session: the record is judged, reports/latest points to it, and the verdict is the last line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from plugins import manifest
from plugins.output import say
from plugins.plants import CAUGHT
from plugins.record import recorder_of
from plugins.session import settings_of


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After every fixture's tear-down, before pytest-html's page."""
    recorder = recorder_of(session.config)
    if recorder is None:
        return
    if recorder.usage_errors:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    recorder.finish(exitstatus)
    if session.exitstatus != pytest.ExitCode.USAGE_ERROR:
        assert recorder.verdict is not None
        session.exitstatus = recorder.verdict.exit_status
        point_latest(recorder.settings.report_dir)  # here already: whatever breaks after it, the newest run is this one


class LastWord:
    """Outermost around the end of the session: after pytest-html's page and pytest's own summary line."""

    def __init__(self, folder: Path) -> None:
        self._begun, self._folder = False, folder

    def pytest_runtest_logstart(self) -> None:
        """From its first check on a run is the newest: whatever ends it, no earlier verdict is read for its own."""
        if not self._begun:
            self._begun = True
            point_latest(self._folder)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        recorder = recorder_of(session.config)
        assert recorder is not None
        folder = recorder.settings.report_dir
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            shutil.rmtree(folder)
            for text in recorder.usage_errors:
                say(session.config, f"ERROR: {text}", red=True)
        elif verdict := recorder.verdict:
            session.exitstatus = verdict.exit_status  # pytest's own --max-warnings sets another
            manifest.write(folder)
            green, page = verdict.word == "ACCEPTED", folder / "report.html"
            if plant := recorder.data["plant"]:
                caught = plant["word"] == CAUGHT
                say(session.config, plant["line"], bold=True, green=caught, red=not caught)
            for line in recorder.nights.lines if recorder.nights else ():
                say(session.config, line)
            say(session.config, f"report: {page if page.is_file() else folder / 'run.json'}")
            say(session.config, verdict.line, bold=True, green=green, red=not green)
        return result


def point_latest(folder: Path) -> None:
    """Let reports/latest point at this run, at once for whoever looks."""
    fresh = folder.with_name(f".latest-{folder.name}")
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, folder.with_name("latest"))


def pytest_configure(config: pytest.Config) -> None:
    settings = settings_of(config)
    if settings is not None and settings.writes:
        config.pluginmanager.register(LastWord(settings.report_dir), "acceptance-last-word")
