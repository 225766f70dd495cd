"""Which node serves: from the id in an answer, over etcd, to the node that has the worker's address."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from fixtures.basics.errors import BringUpFailed
from fixtures.clients import prometheus
from fixtures.cluster.inventory.model import Inventory, NodeSpec
from fixtures.load.from_node import NodeLoad, background_load
from fixtures.load.plan import LoadPlan
from fixtures.load.request import Request
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run

# the check that owns that the load is served at all
SERVES_CHECK = "M08-01"


@dataclass(frozen=True)
class Member:
    """A registered worker. `address` is where the frontend sends its requests, `node` the one whose data address that
    is, `home` the one that has it on whichever network; None: no node."""

    instance_id: int
    address: str | None
    node: str | None
    home: str | None
    metrics_url: str | None

    @property
    def hex_id(self) -> str:
        return f"{self.instance_id:x}"


def nodes_with_workers(inventory: Inventory) -> tuple[NodeSpec, ...]:
    """The nodes that the inventory gives workers. Raises BringUpFailed for fewer than two."""
    found = inventory.with_role("worker")
    if len(found) < 2:
        there = ", ".join(spec.name for spec in found) or "no node"
        raise BringUpFailed(SERVES_CHECK, f"workers are on {there} only: give a second node the role worker")
    return found


def members(deployment: Deployment, inventory: Inventory) -> list[Member]:
    """Every worker that is registered. On the NATS request plane its address is that of its metrics."""
    data = {spec.dynamo_data_address: spec.name for spec in inventory.nodes}
    homes = {spec.dynamo_management_address: spec.name for spec in inventory.nodes} | data
    found = []
    for worker in deployment.registered_workers():
        address = worker.address or urlsplit(worker.system_url or "").hostname
        node, home = (where.get(address) if address else None for where in (data, homes))
        url = f"{worker.system_url}/metrics" if worker.system_url else None
        found.append(Member(worker.instance_id, address, node, home, url))
    return found


def counted(deployment: Deployment, workers: Iterable[Member], name: str) -> dict[int, float]:
    """What each worker has counted on its serving endpoint, by instance id. Raises CouldNotLook."""
    endpoint = deployment.settings.dialect.worker_endpoint
    return {
        each.instance_id: prometheus.scrape(deployment.reach(each.metrics_url), only=name).total_or_zero(
            name, dynamo_endpoint=endpoint
        )
        for each in workers
        if each.metrics_url
    }


def by_worker(requests: Iterable[Request]) -> Counter[int]:
    """How many requests each worker served, by the id in their answers."""
    return Counter(worker for request in requests for worker in request.worker_ids)


def of_fair_share(counts: Mapping[int, int], chosen: int) -> float | None:
    """What `chosen` has served in multiples of an even share among those in `counts`; None when nothing was served."""
    total = sum(counts.values())
    return counts[chosen] * len(counts) / total if total else None


@contextmanager
def load_from_client(
    run: Run, deployment: Deployment, plan: LoadPlan, urls: list[str] | None = None
) -> Iterator[NodeLoad]:
    """A load from the inventory's client node, or from the frontend's where there is none, to the first frontend."""
    equipment = run.equipment()[run.inventory.load_node.name]
    model = deployment.settings.model_name
    with background_load(equipment.node, equipment.runtime, urls or [deployment.load_url], model, plan) as load:
        yield load
