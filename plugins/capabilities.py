"""Declared against probed, before a check runs. The only place that skips."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from fixtures.basics.errors import CouldNotLook
from fixtures.cluster.inventory.requires import LEFT_OUT
from fixtures.cluster.probes.capabilities import ATTACHED
from plugins.marks import needs_of, why_managed
from plugins.not_covered import covered_by
from plugins.session import CHECK, RUN, settings_of


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is not declared; what is declared but missing fails later, in the call, without its fixtures.

    A probe that breaks raises here, so that the check reads as an error: could not look.
    """
    if CHECK not in item.stash:
        return
    state = item.stash[CHECK]
    settings = settings_of(item.config)
    assert settings is not None
    for capabilities, role in needs_of(item):
        names = [node.name for node in settings.inventory.with_role(role)] if role else None
        if names == []:
            _skip(item, f"no node of the inventory has the role {role!r}")
        state.evidence.nodes(*names or ())
        look = item.config.stash[RUN].capabilities().look(capabilities, node_names=names)
        if look.state == "not_declared":
            why = LEFT_OUT.get(why_managed(item)) if look.text == ATTACHED else None
            _skip(item, f"{look.text}; {why}" if why else look.text)
        if look.state == "broken":
            raise CouldNotLook(look.text)
        if look.state == "missing":
            state.missing = look.text
            item.fixturenames = []  # type: ignore[attr-defined]
            return


def _skip(item: pytest.Item, reason: str) -> None:
    state, settings = item.stash[CHECK], settings_of(item.config)
    assert settings is not None
    state.skip_reason, state.covered_by = reason, covered_by(item, settings)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    __tracebackhide__ = True
    state = pyfuncitem.stash.get(CHECK, None)
    if state is not None and state.missing is not None:
        pytest.fail(f"declared, but not there: {state.missing}", pytrace=False)
    return (yield)
