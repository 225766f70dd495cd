"""Fixtures of module 00."""

import pytest

from fixtures.cluster.inventory.model import Inventory
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_00_architecture.request_path import RequestPath, follow, workers_on_the_way


@pytest.fixture(scope="package")
def request_path(deployment: Deployment, inventory: Inventory) -> RequestPath:
    """What every hop counted while a few requests of this module went through."""
    return follow(deployment, requests=6, workers_each=workers_on_the_way(inventory))
