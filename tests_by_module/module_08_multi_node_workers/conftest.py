"""Fixtures of module 08: a load of which is known which node served each request, and one under which workers come
and go."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.errors import BringUpFailed
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import links
from fixtures.load.plan import LoadPlan
from fixtures.product.deployments import multi_node_engine, placement
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.launch_lint import NodeFacts
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.history import Links, Scaled, Served
from tests_by_module.module_08_multi_node_workers.workers_by_node import (
    by_worker,
    counted,
    load_from_client,
    members,
    nodes_with_workers,
)

JOINS_CHECK = "M08-04"
SERVES_WITHIN_S, DRAINS_WITHIN_S = 15, 30
# each a fifth of what is asked of one worker at most: nothing queues, and all that is sent is short of its deadline
RATE_PER_S = 20.0
GO_ON_FOR = {"short": 100, "long": 1200}  # requests before the worker leaves, and after it has left
# a request that the router has given to a worker in the millisecond before it left is refused there; without this its
# client is told 503 (seen: the router chose 3.4 ms after the worker had stopped, and knew 0.4 ms later)
SENT_ELSEWHERE = ("--migration-limit", "1")


@pytest.fixture(scope="package")
def worker_nodes(inventory: Inventory) -> list[str]:
    """The nodes that the inventory gives workers. Raises BringUpFailed for fewer than two."""
    return [spec.name for spec in nodes_with_workers(inventory)]


@pytest.fixture(scope="package")
def served(run: Run, deployment: Deployment, inventory: Inventory, nodes: dict[str, Node]) -> Served:
    """Long prompts, unlike each other, sent from the client's node."""
    workers = members(deployment, inventory)
    metrics = deployment.settings.dialect.metrics
    names = (metrics.worker_requests, metrics.worker_request_bytes)
    servers = [name for name in nodes if set(inventory.node(name).dynamo_roles) != {"client"}]
    plan = LoadPlan(
        seed=run.seed + 1,
        prompt_tokens=(3000, 4000),
        output_tokens=(4, 8),
        within_s=60,
        concurrency=4 * len(workers),
        count=60 * len(workers),
    )
    requests, sizes = (counted(deployment, workers, name) for name in names)
    # between the looks at the interfaces nothing else is asked of the nodes: to ask is traffic, too
    before = {name: links(nodes[name]) for name in servers}
    with load_from_client(run, deployment, plan) as sent:
        load = sent.finish()
    after = {name: links(nodes[name]) for name in servers}
    done, moved = (counted(deployment, workers, name) for name in names)
    return Served(
        load,
        workers,
        {worker: done[worker] - requests[worker] for worker in requests},
        Links({worker: moved[worker] - sizes[worker] for worker in sizes}, before, after),
    )


@pytest.fixture(scope="package")
def spread(run: Run, worker_nodes: list[str]) -> placement.Placement:
    """One worker on each of the first two nodes that have any; the rest as declared."""
    return replace(placement.declared(run.inventory.nodes), workers=dict.fromkeys(worker_nodes[:2], 1), types={})


@pytest.fixture(scope="module")
def mended_afterwards(run: Run) -> Iterator[None]:
    """What is done to a whole node or its links is also done to what the run's own deployment has there."""
    yield
    run.mend()


@pytest.fixture(scope="package")
def scaled(run: Run, inventory: Inventory, spread: placement.Placement, form: str) -> Scaled:
    """Raises BringUpFailed when the worker that joins never serves."""
    first, second = spread.workers
    alone = replace(spread, workers={first: 1})
    plan = LoadPlan(
        seed=run.seed + 2, prompt_tokens=(20, 60), output_tokens=(100, 150), within_s=30, rate_per_s=RATE_PER_S
    )
    with ExitStack() as stack:
        deployment = stack.enter_context(
            run.own_deployment("module_08.scaling", placed=alone, frontend_args=SENT_ELSEWHERE)
        )
        (stayed,) = (each.instance_id for each in members(deployment, inventory))
        sent = stack.enter_context(load_from_client(run, deployment, plan))

        def go_on(how: str) -> None:
            deadline = Deadline(60 + GO_ON_FOR[form] / RATE_PER_S, f"the load to go on {how}")
            sent.wait_until_completed(len(sent.so_far()) + GO_ON_FOR[form], deadline)

        sent.wait_until_completed(20, Deadline(30, "a quiet beginning"))
        try:
            worker = stack.enter_context(run.joined_worker(deployment, on=second))
            deadline = Deadline(deployment.ready_within_s, f"{worker.name} on {second} to register")
            came = deployment.wait_until_registered(worker, deadline).instance_id
            registered = sent.mark("worker joined")

            def look() -> tuple[int | None, object]:
                counts = by_worker(sent.so_far())
                return counts[came] or None, dict(counts)

            wait_until(look, Deadline(SERVES_WITHIN_S, f"{worker.name} on {second} to serve"), every_s=0.2)
        except (DeadlineExceeded, ServiceFailed) as error:
            raise BringUpFailed(JOINS_CHECK, f"a worker that joins under load does not serve: {error}") from None
        go_on("with two workers")
        drains_s = max(DRAINS_WITHIN_S, worker.ends_within_s)
        signalled = sent.mark("SIGTERM")
        process = worker.require_process()
        process.signal(signal.SIGTERM)
        arrived = sent.mark("SIGTERM arrived")
        exit_status = process.wait_until_ended(Deadline(drains_s, f"{worker.name} to end after SIGTERM"))
        sent.mark("worker ended")
        go_on("with one worker")
        load, metrics = sent.finish(), deployment.frontend_metrics()
        kinds = ("ongoing_request", "new_request")
        name = deployment.settings.dialect.metrics.migrations
        moved = (int(metrics.total_or_zero(name, migration_type=kind)) for kind in kinds)
        return Scaled(load, stayed, came, registered, signalled, arrived, exit_status, *moved)


@pytest.fixture(scope="package")
def node_facts(nodes: dict[str, Node], inventory: Inventory, worker_nodes: list[str]) -> dict[str, NodeFacts]:
    """Of each node with workers: its addresses as found, its devices as declared."""

    def of(name: str) -> NodeFacts:
        spec = inventory.node(name)
        return NodeFacts(name, spec.dynamo_data_address, links(nodes[name]), spec.dynamo_rdma_devices)

    return dict(zip(worker_nodes, in_parallel(of, worker_nodes), strict=True))


@pytest.fixture(scope="package")
def engine_nodes(run: Run, node_facts: dict[str, NodeFacts]) -> list[multi_node_engine.Member]:
    """The nodes with workers, as parts of one engine: a device is a GPU, or the CPU where there is none."""
    found, model = [], run.inventory.model(run.inventory.nodes[0].dynamo_model).served_name
    for name, facts in node_facts.items():
        gpus = len(run.inventory.node(name).dynamo_gpus or run.facts()[name]["gpu"].get("found", ()))
        equipment = run.equipment()[name]
        command = multi_node_engine.vllm_command(equipment.runtime.python, equipment.model.path, model)
        found.append(multi_node_engine.Member(facts, gpus or 1, equipment.runtime.versions, command))
    return found
