"""Cases that the inventory names: a check that asks for such an argument runs once for each of them."""

import pytest

from fixtures.fit.models import SERVED
from plugins.session import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    if settings and "large_model" in metafunc.fixturenames:
        named = settings.inventory.cluster.dynamo_large_models
        metafunc.parametrize("large_model", named or (SERVED,), scope="package")
