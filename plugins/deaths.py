"""A process that ends by itself fails the check in which it ends, and blocks those that stand on its deployment."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from fixtures.basics.errors import BringUpFailed
from plugins.causes import DECLARED
from plugins.durations import began
from plugins.session import CHECK, RUN

# by the namespace of a deployment: what its loss is to those who stand on it, and the fixtures that have made it
LOST: pytest.StashKey[dict[str, BringUpFailed]] = pytest.StashKey()
MADE_BY: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LOST], config.stash[MADE_BY] = {}, {}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Notes which deployments a fixture has brought up: who asks for the fixture stands on them."""
    run = request.config.stash.get(RUN, None)
    before = set(map(id, run.deployments)) if run else set()
    try:
        return (yield)
    finally:
        for each in run.deployments if run else ():
            if id(each) not in before:
                request.config.stash[MADE_BY].setdefault(each.settings.namespace, fixturedef.argname)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    if CHECK in item.stash:
        for namespace in _stands_on(item):
            if lost := item.config.stash[LOST].get(namespace):
                raise lost
    try:
        return (yield)
    except Exception:
        _look(item)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        result = yield
    except (Exception, pytest.fail.Exception) as error:
        _look(item, f"\nseen by the check: {str(error).strip().splitlines()[0]}" if str(error).strip() else "")
        raise
    _look(item, at_once=False)
    return result


def _stands_on(item: pytest.Item) -> list[str]:
    """Namespaces of the deployments that its fixtures give it."""
    names, made_by = set(getattr(item, "fixturenames", ())), item.config.stash[MADE_BY]
    there = {each.settings.namespace: each for each in item.config.stash[RUN].deployments}
    return [
        namespace
        for namespace, each in there.items()
        if made_by.get(namespace) in names or (not each.prefix and DECLARED & names)
    ]


def _look(item: pytest.Item, seen: str = "", *, at_once: bool = True) -> None:
    """Raises BringUpFailed, as this check's own failure, where a process has ended since the last look."""
    __tracebackhide__ = True
    if CHECK not in item.stash:
        return
    state, run, lost = item.stash[CHECK], item.config.stash[RUN], item.config.stash[LOST]
    if not (found := run.deaths.look(run.deployments, at_once=at_once)):
        return
    reason = "\n".join(each.text for each in found) + seen
    own = {each.settings.namespace for each in run.deployments if each.prefix}
    declared = any(each.namespace not in own for each in found)
    causes = run.causes.found(reason, time.monotonic() - began(item, state.began), declared=declared)
    failure = BringUpFailed(state.check_id, reason, causes=causes)
    for each in found:
        lost.setdefault(each.namespace, failure)
    raise failure
