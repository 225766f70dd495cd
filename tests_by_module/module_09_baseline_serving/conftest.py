"""Fixtures of module 09: two servers without Dynamo, and what they make of the named workloads."""

from collections.abc import Iterator

import pytest

from fixtures.baseline.replicas import planned, replicas, require_own_server, serving_nodes
from fixtures.baseline.run_set import MeasuredSet, measured_baseline
from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import BringUpFailed
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.services.base import ServiceFailed
from fixtures.product.services.vllm_server import VllmServer
from fixtures.run import Run

SERVERS_CHECK = "M09-01"


@pytest.fixture(scope="package")
def servers(run: Run) -> Iterator[list[VllmServer]]:
    """Both servers, ready. Raises BringUpFailed, NotOffered."""
    on = serving_nodes(run.inventory.nodes)
    require_own_server(run.equipment()[on[0]].runtime)
    name = run.inventory.model(run.inventory.node(on[0]).dynamo_model).served_name
    try:
        with replicas(run.at("module_09.replicas", planned(run.equipment(), on, name))) as started:
            yield started
    except (ServiceFailed, DeadlineExceeded) as error:
        raise BringUpFailed(SERVERS_CHECK, str(error)) from None


@pytest.fixture(scope="package")
def measured(run: Run, servers: list[VllmServer], client: Equipment, profile: str) -> MeasuredSet:
    """The baseline, kept in the run's folder, where module 10 looks for it."""
    equipment = run.equipment()[servers[0].node.name]
    return measured_baseline(servers, client, profile, equipment=equipment, facts=run.facts(), folder=run.report_dir)
