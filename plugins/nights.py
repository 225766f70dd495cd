"""--compare RUN and --save-reference: which run is the reference, before anything runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fixtures.nights.comparison import Refused, check_reference
from fixtures.nights.history import FILE, History, HistoryError
from fixtures.nights.night import Night
from fixtures.times.record import RecordError, load
from plugins.against import Nights, night
from plugins.output import clean
from plugins.record import recorder_of
from plugins.session import Settings, settings_of

LATEST = "latest"


def find(given: str, settings: Settings) -> Night:
    """The run that --compare names: a folder or run.json, an id, or the newest saved reference of this profile.

    Raises UsageError.
    """
    reports, history = settings.report_dir.parent, History(settings.report_dir.parent)
    try:
        if given == LATEST:
            return _latest(settings, history)
        path = next((each for each in (Path(given), reports / given) if each.exists()), None)
        if path is not None:
            file, data = load(path)
            return night(data, str(file))
        if kept := [each for each in history.nights()[0] if each.run_id == given]:
            return kept[0]
        raise Refused(f"there is no such folder, and no such run in {reports} or its {FILE}")
    except (Refused, RecordError, HistoryError) as error:
        raise pytest.UsageError(f"--compare {given}: {clean(str(error))}") from None


def _latest(settings: Settings, history: History) -> Night:
    profile, saved = settings.inventory.cluster.dynamo_profile, history.references()
    nights = [each for each in history.nights()[0] if each.run_id in saved]
    mine = [each for each in nights if each.profile == profile]
    if not mine:
        others = ", ".join(sorted({each.profile for each in nights})) or "none"
        raise Refused(
            f"no reference of the profile {profile} is saved in {history.path} (there is one of: {others}); "
            "save one with --save-reference"
        )
    return mine[-1]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    settings, given = settings_of(config), config.getoption("compare")
    recorder = recorder_of(config)
    if settings is None or recorder is None:
        return
    try:
        reference = find(given, settings) if given else None
        try:
            if reference:
                check_reference(reference, time.time())
        except Refused as error:
            raise pytest.UsageError(f"--compare {given}: {error}") from None
        if settings.plant and settings.plant.compared and not reference:
            raise pytest.UsageError(
                f"--plant {settings.plant.name}: a comparison shows it: save a reference, then add --compare latest"
            )
        save = config.getoption("save_reference")
        if save and settings.plant:
            raise pytest.UsageError(f"--save-reference: a run with the plant {settings.plant.name} cannot be one")
    except pytest.UsageError:
        settings.report_dir.rmdir()
        raise
    recorder.nights = Nights(settings, reference, save, config.getoption("report_mode") & 0o666)
