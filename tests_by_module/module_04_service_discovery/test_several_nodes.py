"""Discovery between nodes: what is registered leads to the right node, and is found from the others."""

import random
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import folded
from fixtures.basics.parallel import in_parallel
from fixtures.clients.answer import addressed_to
from fixtures.clients.inference import complete
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.nodes.addresses import with_port
from fixtures.cluster.probes.probe import sockets
from fixtures.product.deployments.deployment import READY_WITHIN_S, Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.registry import RegisteredWorker
from fixtures.product.deployments.topology import ANY_ADDRESS
from fixtures.run import Run

pytestmark = pytest.mark.needs("multi_node")

SERVES_WITHIN_S = 15
OTHERS = 3  # nodes, besides the first and the last


def registered_at(worker: RegisteredWorker) -> list[tuple[str, int]]:
    """Every address and port that a worker has told: of its requests and of its files and metrics."""
    system = urlsplit(worker.system_url or "")
    told = [(worker.address, worker.port), (system.hostname, system.port)]
    return [(address, port) for address, port in told if address and port]


@check(
    "M04-14",
    judged="all addresses in etcd of each worker: the data address of the node where it listens; no loopback, no "
    "management",
    evidence="table of addresses",
    by_hand="etcdctl get --prefix v1/instances/; on each node: ss -tln",
    causes=[27, 73, 79],
)
def test_workers_register_their_own_nodes_data_address(
    deployment: Deployment, inventory: Inventory, nodes: dict[str, Node], evidence: Evidence
):
    """Each worker registers the data address of its own node, neither loopback nor the management address."""
    workers = deployment.registered_workers()
    assert workers, f"no worker is registered in {deployment.settings.namespace}"
    data = {spec.dynamo_data_address: spec.name for spec in inventory.nodes}
    management = {spec.dynamo_management_address: spec.name for spec in inventory.nodes}
    seen = dict(zip(nodes, in_parallel(sockets, list(nodes.values())), strict=True))
    listening = {name: {tuple(each["local"]) for each in found["listening"]} for name, found in seen.items()}
    wrong, rows = Findings(), []
    for worker in workers:
        for address, port in registered_at(worker):
            at = with_port(address, port)
            rows.append([worker.hex_id, at, data.get(address)])
            if ip_address(address).is_loopback:
                wrong.add(f"worker {worker.hex_id} is registered at loopback, {at}")
            elif address in management:
                name = management[address]
                wrong.add(f"worker {worker.hex_id} is registered at {name}'s management address, {at}")
            elif address not in data:
                wrong.add(f"worker {worker.hex_id} is registered at {at}, no node's data address")
            elif not listening[data[address]] & {(each, port) for each in (address, *ANY_ADDRESS)}:
                wrong.add(f"worker {worker.hex_id} is registered at {at}, where nothing listens on {data[address]}")
    evidence.table("registered", ["worker", "address", "data address of"], rows)
    assert rows, "the workers have registered no address: nothing to look at"
    wrong.judge()


def a_few(names: Sequence[str], seed: int) -> list[str]:
    """The first, the last and others by chance: each costs the start of a worker."""
    chosen = {*names[:1], *names[-1:], *random.Random(seed).sample(names[1:-1], min(OTHERS, max(0, len(names) - 2)))}
    return [name for name in names if name in chosen]


@check(
    "M04-15",
    judged="it registers from a node without the frontend, and answers a request that names it; on the first such "
    "node, the last and three more, drawn by the run's seed",
    evidence="measurement, sample",
    by_hand="a worker on another node; nvext.backend_instance_id",
    causes=[27],
)
@pytest.mark.needs("managed", why="breaks")
def test_worker_that_joins_on_another_node_serves(
    run: Run, managed: ManagedDeployment, inventory: Inventory, measure: Measure, evidence: Evidence
):
    """A worker that joins on a node without the frontend is found and serves requests addressed to it."""
    every, took_s = inventory.require_away_from_frontend(), []
    chosen = a_few(every, run.seed)
    if len(chosen) < len(every):
        evidence.note("sample", f"{folded(chosen)} of {len(every)} nodes, drawn by the seed {run.seed}")
    for name in chosen:
        with run.joined_worker(managed, on=name) as worker:
            registers = Deadline(READY_WITHIN_S, f"{worker.name} to register")
            registered = managed.wait_until_registered(worker, registers)
            by_name = addressed_to(registered.instance_id)
            deadline = Deadline(SERVES_WITHIN_S, f"worker {registered.hex_id}, joined on {name}, to serve a request")

            def look(by_name=by_name, worker_id=registered.instance_id) -> tuple[bool | None, object]:
                answer = complete(managed.endpoint, f"by name: {uuid4()}", max_tokens=1, nvext=by_name, timeout_s=5)
                return (True if answer.ok and worker_id in answer.worker_ids else None), answer.describe()

            try:
                wait_until(look, deadline)
            except DeadlineExceeded as error:
                raise AssertionError(str(error)) from None
            took_s.append(deadline.elapsed_s)
    measure("served_after_registration_s", max(took_s), n=len(took_s))
    measure.judge()
