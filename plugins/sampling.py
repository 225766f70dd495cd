"""Samples of the run's own deployment, between checks: once it is up, every few seconds, and after each module.

None is taken where no check that judges the whole run is selected: each asks for something.
"""

from __future__ import annotations

import functools
import time

import pytest

from plugins.marks import module_of
from plugins.session import CHECK, RUN

# what a request leaves behind shows in the slope over many samples; one takes 0.2 s
EVERY_S, AGAIN_AFTER_S = 15.0, 1.0
SAMPLED: pytest.StashKey[float] = pytest.StashKey()  # when a sample was taken last, on the monotonic clock


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After a check, before the next: no check's measurement has a sample in it."""
    stash = item.config.stash
    if CHECK not in item.stash or RUN not in stash or not _judged_at_end(item.session):
        return
    ends = nextitem is None or module_of(nextitem) != module_of(item)
    since = time.monotonic() - stash.get(SAMPLED, -EVERY_S)
    if since >= (AGAIN_AFTER_S if ends else EVERY_S) and stash[RUN].history.take(f"after {item.stash[CHECK].check_id}"):
        stash[SAMPLED] = time.monotonic()


@functools.cache
def _judged_at_end(session: pytest.Session) -> bool:
    return any(item.get_closest_marker("at_end") for item in session.items)
