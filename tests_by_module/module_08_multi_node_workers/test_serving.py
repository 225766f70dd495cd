"""A worker on each node behind one frontend: each serves, and it is known which."""

from urllib.parse import urlsplit

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BringUpFailed, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.parallel import in_parallel
from fixtures.basics.require import require
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.nodes.addresses import with_port
from fixtures.cluster.probes.probe import interface_of, sockets
from fixtures.faults.timeline import require_none_lost
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_08_multi_node_workers.history import Served
from tests_by_module.module_08_multi_node_workers.workers_by_node import SERVES_CHECK, by_worker, of_fair_share

pytestmark = pytest.mark.needs("multi_node", "runtime")


@check(
    "M08-01",
    judged="60 unlike prompts for each worker: none lost, none of the nodes idle, the busiest worker's share",
    evidence="requests by node",
    by_hand="send unique prompts, count nvext.worker_id",
    causes=[28],
)
@pytest.mark.smoke
def test_every_node_serves_its_share(served: Served, worker_nodes: list[str], measure: Measure, evidence: Evidence):
    """The workers of all nodes serve different prompts in even shares, and no request is lost."""
    counts = by_worker(served.load.requests)
    by_node = {name: 0 for name in worker_nodes}
    for worker in served.workers:
        where = worker.home or worker.address or "no address"
        by_node[where] = by_node.get(where, 0) + counts[worker.instance_id]
    evidence.table("requests by node", ["node", "requests"], by_node.items())
    require_none_lost(served.load.requests)
    idle = [name for name in worker_nodes if not by_node[name]]
    assert not idle, f"no request was served on {', '.join(idle)}: {by_node}"
    shares = {each.instance_id: counts[each.instance_id] for each in served.workers}
    of_share = [require(of_fair_share(shares, each), "request that a worker served") for each in shares]
    measure("busiest_of_fair_share", max(of_share), n=sum(counts.values()))
    measure.judge()


@check(
    "M08-02",
    judged="each answer names one worker; it is registered at a node's data address; something listens there; "
    "answers that name it and its own count are equal",
    evidence="table of workers",
    by_hand="etcdctl get --prefix v1/instances/; ss -tlnp on the node",
    causes=[27],
)
def test_node_that_served_is_known(
    served: Served, deployment: Deployment, inventory: Inventory, nodes: dict[str, Node], evidence: Evidence
):
    """Each answer names its worker, and that worker is registered, listens and counts at a node's data address."""
    counts = by_worker(served.load.requests)
    known = {each.instance_id: each for each in served.workers}
    strangers = sorted(counts.keys() - known.keys())
    assert not strangers, (
        f"answers name workers that are not registered: {', '.join(f'{each:x}' for each in strangers)}"
    )
    anonymous = [request for request in served.load.requests if len(request.worker_ids) != 1]
    assert not anonymous, f"{len(anonymous)} answers do not name one worker: {anonymous[0]}"
    at_home = [(each, each.address, each.node) for each in served.workers if each.address and each.node]
    lost_ones = {each.hex_id: each.address for each in served.workers if each.node is None}
    assert not lost_ones, (
        f"workers registered addresses that are not the data address of a node: {lost_ones}; data addresses are "
        f"{', '.join(spec.dynamo_data_address for spec in inventory.nodes)}"
    )
    homes = sorted({node for _, _, node in at_home})
    looks = in_parallel(lambda node: sockets(nodes[node])["listening"], homes)
    listening = dict(zip(homes, looks, strict=True))
    ports = {worker.instance_id: worker.port for worker in deployment.registered_workers()}
    rows, wrong = [], Findings()
    for worker, address, node in at_home:
        port = ports.get(worker.instance_id)
        pids = {each["pid"] for each in listening[node] if each["local"] == [address, port]}
        told, own = counts[worker.instance_id], served.counted.get(worker.instance_id)
        rows.append([worker.hex_id, node, with_port(address, port), *pids, told, own])
        if port is not None and not pids:
            wrong.add(f"nothing listens on {with_port(address, port)} of {node}", node=node)
        if told != own:
            wrong.add(f"{told} answers name {worker.hex_id}, the process on {node} counted {own}", node=node)
    evidence.table("who served", ["worker", "node", "address", "pid", "answers", "counted"], rows)
    wrong.judge()


@check(
    "M08-03",
    judged="bytes of the nodes' interfaces before and after the load, in multiples of the bytes of requests that "
    "workers on other nodes than the frontend's counted: received on the data link, and both ways on all "
    "others together",
    evidence="bytes by interface",
    by_hand="cat /proc/net/dev before and after a load",
    causes=[73, 79],
)
def test_requests_go_over_the_data_link(
    served: Served,
    deployment: Deployment,
    inventory: Inventory,
    worker_nodes: list[str],
    measure: Measure,
    evidence: Evidence,
):
    """Requests to workers on other nodes travel over the data link, and almost nothing over any other."""
    front = urlsplit(deployment.frontend_url).hostname
    remote = [name for name in worker_nodes if inventory.node(name).dynamo_data_address != front]
    asked = sum(served.links.request_bytes[each.instance_id] for each in served.workers if each.home in remote)
    rows, over_data, elsewhere = [], 0, 0
    for name in remote:
        address = inventory.node(name).dynamo_data_address
        data = interface_of(address, served.links.before[name])
        if data is None:
            raise CouldNotLook(f"no interface of {name} has its data address {address}: {served.links.before[name]}")
        for interface in (served.links.before[name].keys() & served.links.after[name].keys()) - {"lo"}:
            received, sent = served.links.moved(name, interface)
            rows.append([name, interface, "data link" if interface == data else "", received, sent])
            over_data += received if interface == data else 0
            elsewhere += received + sent if interface != data else 0
    evidence.table("bytes moved", ["node", "interface", "", "received", "sent"], rows)
    if not asked:
        raise BringUpFailed(SERVES_CHECK, f"the workers of {', '.join(remote)} counted 0 bytes of requests")
    measure("request_bytes", asked, n=len(served.load.requests))
    measure("data_link_of_request_bytes", over_data / asked, n=len(served.load.requests))
    measure("other_links_of_request_bytes", elsewhere / asked, n=len(served.load.requests))
    measure.judge()
