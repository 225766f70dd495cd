"""Under xdist each module package stays on one runner: its deployment comes up once, its checks keep their order."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.checks import TESTS
from plugins.keys import settings_of

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # xdist is switched off or absent: then nothing asks for a scheduler
    LoadScopeScheduling = object


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """The scope of a test is its module package; of a test outside tests_by_module, its file."""

    def _split_scope(self, nodeid: str) -> str:
        parts = nodeid.split("::")[0].split("/")
        return "/".join(parts[:2] if parts[0] == TESTS else parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return ModuleScheduling(config, log) if settings_of(config) else None
