"""Fixtures of module 09: two servers without Dynamo, and what they make of the named workloads."""

from collections.abc import Iterator

import pytest

from fixtures.deadline import DeadlineExceeded
from fixtures.deployments.deployment import Equipment
from fixtures.measure.baseline import store
from fixtures.outcomes import BringUpFailed
from fixtures.run import Run
from fixtures.services.base import ServiceFailed
from fixtures.services.vllm_server import VllmServer
from fixtures.serving.model_files import model_files
from fixtures.serving.replicas import replicas, serving_nodes
from fixtures.serving.sets import MeasuredSet, measured_set, path_of, target_of_replicas

SERVERS_CHECK = "M09-01"


@pytest.fixture(scope="package")
def servers(run: Run) -> Iterator[list[VllmServer]]:
    """Both servers, ready. Raises BringUpFailed."""
    on = serving_nodes(run.inventory.nodes)
    name = run.inventory.model(run.inventory.node(on[0]).dynamo_model).served_name
    try:
        with replicas(run.equipment(), on, name, run.sabotage) as started:
            yield started
    except (ServiceFailed, DeadlineExceeded) as error:
        raise BringUpFailed(SERVERS_CHECK, str(error)) from None


@pytest.fixture(scope="package")
def client(run: Run) -> Equipment:
    """Where requests are sent from: the inventory's client, or the frontend's node where there is none."""
    return run.equipment()[run.inventory.load_node.name]


@pytest.fixture(scope="package", params=["short", pytest.param("long", marks=pytest.mark.nightly)])
def profile(request: pytest.FixtureRequest, run: Run) -> str:
    """The profile of workloads: the first that the inventory names, for the night the last."""
    return run.inventory.cluster.dynamo_workloads[0 if request.param == "short" else -1]


@pytest.fixture(scope="package")
def measured(run: Run, servers: list[VllmServer], client: Equipment, profile: str) -> MeasuredSet:
    """The baseline, stored in the run's folder, where module 10 looks for it."""
    equipment = run.equipment()[servers[0].node.name]
    made = measured_set(
        "baseline",
        target_of_replicas(servers, client),
        profile,
        equipment=equipment,
        files=model_files(equipment),
        facts=run.facts(),
    )
    store(made.runs, path_of(run.report_dir, profile))
    return made
