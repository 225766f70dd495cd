"""How long those fixtures of a check took that were set up for an earlier check, whose time it counts for."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from plugins.session import SETUPS, SetUp


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SETUPS] = {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, object, object]:
    """Without the fixtures that it stands on: pytest has set them up before."""
    began = time.monotonic()
    try:
        return (yield)
    finally:
        setups, taken = request.config.stash[SETUPS], time.monotonic() - began
        setups[id(fixturedef)] = SetUp(request._pyfuncitem.nodeid, began, taken)


def shared_setup_s(item: pytest.Item) -> float:
    """Seconds; of fixtures of a class, module or package, not of the session's, which all its modules share."""
    return sum(each.took_s for each in _shared(item))


def began(item: pytest.Item, at: float) -> float:
    """When what the check looks at began, on the monotonic clock: with the first of those fixtures, else `at`."""
    return min([at, *(each.began for each in _shared(item))])


def _shared(item: pytest.Item) -> list[SetUp]:
    known, setups = getattr(item, "_fixtureinfo", None), item.config.stash[SETUPS]
    definitions = known.name2fixturedefs.values() if known else ()
    narrow = [each[-1] for each in definitions if each[-1].scope not in ("function", "session")]
    return [found for each in narrow if (found := setups.get(id(each))) and found.nodeid != item.nodeid]
