"""After a check that failed: those that ask a deployment which answers nothing any more end soon, with its name."""

from __future__ import annotations

import pytest

from plugins.causes import DECLARED
from plugins.session import CHECK, RUN


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if CHECK in item.stash:
        item.config.stash[RUN].silence.look_anew()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    state = item.stash.get(CHECK, None)
    if state and state.outcome in ("failed", "error") and DECLARED & set(getattr(item, "fixturenames", ())):
        item.config.stash[RUN].suspect(state.check_id)
