"""Fixtures of module 04."""

import signal
from collections.abc import Iterator

import pytest

from fixtures.basics.deadline import Deadline
from fixtures.clients.etcd import Etcd
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_04_service_discovery.departures import Departure, departing

DRAINS_WITHIN_S = 30


@pytest.fixture
def etcd(deployment: Deployment) -> Iterator[Etcd]:
    """A client of the deployment's etcd."""
    with deployment.etcd_client() as client:
        yield client


@pytest.fixture(scope="package")
def departure_by_sigterm(run: Run, managed: ManagedDeployment) -> tuple[Departure, int | None]:
    """A worker that joined and was ended with SIGTERM, and its exit status."""
    with departing(run, managed, signal.SIGTERM) as (worker, so_far):
        ends = Deadline(max(DRAINS_WITHIN_S, worker.ends_within_s), f"{worker.name} to end after SIGTERM")
        exit_status = worker.require_process().wait_until_ended(ends)
        return so_far(), exit_status
