"""The fixtures `measure` and `evidence`: what a check leaves behind before it is judged."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from plugins.session import CHECK, CheckState


def _state(request: pytest.FixtureRequest) -> CheckState:
    state: CheckState | None = request.node.stash.get(CHECK, None)
    if state is None:
        raise pytest.UsageError(f"{request.node.nodeid}: measure and evidence are for checks in tests_by_module")
    return state


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Records measurements of this check and judges them."""
    return _state(request).measure


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Keeps what this check saw."""
    return _state(request).evidence


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What was measured and never judged is judged when the check ends."""
    __tracebackhide__ = True
    result = yield
    if (state := pyfuncitem.stash.get(CHECK, None)) is not None:
        state.measure.judge_the_rest()
    return result
