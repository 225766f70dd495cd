"""Why a check has failed, where that is written: looked for once, for a check that failed or could not look."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fixtures.basics.errors import BringUpFailed, Unanswered
from plugins.durations import began
from plugins.session import CHECK, RUN, CheckState

# with one of these fixtures a check looks at the deployment that the inventory declares
DECLARED = {"deployment", "picture"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if (state := item.stash.get(CHECK, None)) is not None:
        state.began = time.monotonic()


def look(item: pytest.Item, state: CheckState, error: BaseException | None, reason: str) -> list[dict[str, Any]]:
    """Entries of `found_causes` in run.json, for a check that has just failed by `error`.

    What broke a bring-up was looked for as it broke; only the check that owns it says so.
    """
    if isinstance(error, Unanswered):
        return []  # the check that it names has looked
    if isinstance(error, BringUpFailed):
        return error.causes if error.check_id == state.check_id else []
    names = set(getattr(item, "fixturenames", ()))
    run = item.config.stash[RUN]
    return run.causes.found(reason, time.monotonic() - began(item, state.began), declared=bool(DECLARED & names))


def lines(causes: list[dict[str, Any]]) -> list[str]:
    """What terminal and page say of them, the line of the log below the cause."""
    said = []
    for each in causes:
        said.append(f"cause: {each['cause']}{f' ({where})' if (where := each['where']) else ''}")
        said += [f"  {each['line']}"] if each["line"] else []
        said += [f"  what to do: {each['remedy']}"] if each["remedy"] else []
    return said
