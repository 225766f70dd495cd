"""Fixtures of module 00."""

import pytest

from fixtures.deployments.deployment import Deployment
from tests_by_module.module_00_architecture.request_path import RequestPath, follow


@pytest.fixture(scope="package")
def request_path(deployment: Deployment) -> RequestPath:
    """What every hop counted while a few requests of this module went through."""
    return follow(deployment, requests=6)
