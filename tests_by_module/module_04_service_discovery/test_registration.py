"""What a worker writes into etcd, and what keeps it there."""

import time
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, pause, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.parallel import in_parallel
from fixtures.basics.require import require
from fixtures.clients.etcd import Etcd
from fixtures.clients.inference import InferenceEndpoint, complete, listed_models
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.nodes.addresses import split_port, with_port
from fixtures.product.deployments.deployment import READY_WITHIN_S, Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.registry import instance_keys, registered_workers
from fixtures.run import Run
from tests_by_module.module_04_service_discovery.cards import CARD_PARTS, fetched, named_files

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()"
CONNECT_WITHIN_S = 10
# the fields of a model card that name files


@check(
    "M04-01",
    judged="names, fields and lease of instance key and model card",
    evidence="keys and values",
    by_hand="etcdctl get --prefix v1/instances/; etcdctl get --prefix v1/mdc/",
    causes=[3, 19],
)
@pytest.mark.smoke
def test_workers_register_in_the_layout_of_their_version(deployment: Deployment, evidence: Evidence):
    """Each worker has its instance key and model card, in the version's layout, on its own lease."""
    dialect, declared_model = deployment.settings.dialect, deployment.settings.model_name
    workers = deployment.registered_workers()
    assert workers, f"no worker is registered in {deployment.settings.namespace}"
    wrong = Findings()
    for worker in workers:
        evidence.text(f"worker {worker.hex_id}", f"{worker.instance_key.name}\n{worker.instance_key.value.decode()}\n")
        names = {"namespace": worker.namespace, "component": worker.component, "endpoint": dialect.worker_endpoint}
        expected_key = dialect.instance_key.format(**names, id=worker.hex_id)
        if worker.instance_key.name != expected_key:
            wrong.add(f"the instance key is {worker.instance_key.name}, the layout says {expected_key}")
        wrong.extend(
            f"{worker.hex_id}: instance lacks {f}" for f in dialect.instance_fields if f not in worker.instance
        )
        if worker.card is None or worker.card_key is None:
            wrong.add(f"{worker.hex_id} has an instance key and no model card: nothing can be routed to it")
            continue
        wrong.extend(
            f"{worker.hex_id}: model card lacks {f}" for f in dialect.model_card_fields if f not in worker.card
        )
        wrong.extend(
            f"{key.name} hangs on lease {key.lease_id:x}, not on the worker's own {worker.hex_id}"
            for key in (worker.instance_key, worker.card_key)
            if key.lease_id != worker.instance_id
        )
        if worker.model_name != declared_model:
            wrong.add(f"{worker.hex_id} serves the model {worker.model_name}, expected {declared_model}")
    wrong.judge()


@check(
    "M04-17",
    judged="each file that a card names is fetched from the worker and has the size that the card says",
    by_hand="etcdctl get --prefix v1/mdc/; curl each path",
    causes=[19],
)
@pytest.mark.needs("system_port")
def test_the_model_cards_files_are_served(deployment: Deployment):
    """The worker serves every file that its model card names, in the size that the card says."""
    cards = {worker.hex_id: worker.card for worker in deployment.registered_workers() if worker.card}
    assert cards, f"no worker of {deployment.settings.namespace} has a model card: nothing to look at"
    wrong = [f"{name}: {each}" for name, card in cards.items() for each in files_behind(card, deployment)]
    Findings(wrong).judge()


def files_behind(card: dict, deployment: Deployment) -> list[str]:
    """What is wrong with the files that a model card names: the frontend fetches them from the worker."""
    files = list(named_files(card))
    wrong = [] if files else [f"the model card names no file under {', '.join(CARD_PARTS)}"]
    for file in files:
        try:
            size = len(fetched(file, deployment))
        except httpx.HTTPError as error:
            wrong.append(f"{file['path']} of the model card cannot be fetched: {error!r}")
            continue
        if size != file["size"]:
            wrong.append(f"{file['path']} has {size} bytes, the model card says {file['size']}")
    return wrong


@check(
    "M04-02",
    judged="instance key and card have a lease; granted TTL equals the one set; each lease is alive when more than one "
    "TTL has passed",
    evidence="table of leases",
    by_hand="etcdctl lease timetolive LEASE --keys",
    causes=[16, 25],
)
def test_leases_are_granted_as_set_and_renewed(deployment: Deployment, etcd: Etcd, evidence: Evidence):
    """Each worker's lease has the TTL that is set and is still alive when more than one TTL has passed."""
    registered = deployment.registered_workers()
    keys = [key for each in registered for key in (each.instance_key, each.card_key) if key]
    wrong = Findings(
        f"{key.name} has no lease: nobody removes it when its worker ends" for key in keys if not key.lease_id
    )
    expected: dict[str, int] = {}
    since = time.monotonic()
    if isinstance(deployment, ManagedDeployment):
        expected = {each.name: deployment.registered_as[each.name] for each in deployment.workers if each.is_alive()}
        since = deployment.registered_at
    expected = expected or {each.hex_id: each.instance_id for each in registered if each.instance_key.lease_id}
    assert expected or wrong, "no worker is there: no lease to look at"
    first = {name: etcd.lease(lease_id) for name, lease_id in expected.items()}
    longest = max((lease.granted_ttl_s for lease in first.values()), default=0)
    pause(since + 1.5 * max(longest, 1) - time.monotonic(), "the leases to be older than their TTL")
    later = {name: etcd.lease(lease_id) for name, lease_id in expected.items()}
    evidence.table(
        "leases",
        ["worker", "lease", "granted s", "left s", "keys"],
        [
            [name, f"{lease.id:x}", lease.granted_ttl_s, lease.remaining_ttl_s, len(lease.keys)]
            for name, lease in later.items()
        ],
    )
    wrong.extend(
        f"etcd has no lease {lease.id:x} of {name} any more: it was not renewed, or it was revoked"
        for name, lease in later.items()
        if lease.remaining_ttl_s <= 0
    )
    if isinstance(deployment, ManagedDeployment):
        ttl = deployment.settings.granted_ttl_s
        wrong.extend(
            f"the lease of {name} was granted for {lease.granted_ttl_s} s, expected {ttl} s"
            for name, lease in first.items()
            if lease.remaining_ttl_s > 0 and lease.granted_ttl_s != ttl
        )
    wrong.judge()


@check(
    "M04-08",
    judged="a worker of another namespace and model in the same etcd is not listed, and asking for its model gives 404",
    by_hand="curl FRONTEND/v1/models",
    causes=[28],
)
@pytest.mark.needs("managed", why="breaks")
def test_namespaces_do_not_mix(run: Run, managed: ManagedDeployment, etcd: Etcd):
    """A frontend neither lists nor serves a worker of another namespace in the same etcd."""
    foreign = {"namespace": f"{managed.settings.namespace}_foreign", "model_name": "model-of-another-namespace"}
    frontend = InferenceEndpoint(managed.reach(managed.frontend_url), managed.settings.model_name)
    with run.joined_worker(managed, **foreign) as worker:

        def look() -> tuple[object, str]:
            there = registered_workers(etcd, managed.settings.dialect, foreign["namespace"])
            return there or None, "not registered there" if worker.is_alive() else f"it ended: {worker.why()}"

        wait_until(look, Deadline(READY_WITHIN_S, "the foreign worker to register"))
        # a worker of its own namespace is seen by the frontend within this time: so would this one be
        sees_within = Deadline(2, "the frontend to take notice")
        listed = None
        while not sees_within.expired and listed in (None, [managed.settings.model_name]):
            listed = listed_models(frontend)
            sees_within.pause(0.1)
        answer = complete(replace(frontend, model=foreign["model_name"]), "hello", max_tokens=1)
    assert listed == [managed.settings.model_name], (
        f"the frontend of namespace {managed.settings.namespace} lists {listed}, expected only its own model; "
        f"{foreign['model_name']} is served in another namespace"
    )
    assert answer.status == 404, f"asked for another namespace's model, the frontend answers {answer.describe()}"


@check(
    "M04-12",
    judged="a connection from each node to the data address of etcd's node; where it runs already, to the address "
    "that is declared",
    evidence="advertised addresses",
    by_hand="on each node: curl ETCD/health",
    causes=[27],
)
def test_etcd_is_reached_from_every_node(
    run: Run, inventory: Inventory, deployment: Deployment, etcd: Etcd, evidence: Evidence
):
    """Every node reaches etcd at the data address of the node with the role, or at the address that is declared."""
    port = int(deployment.settings.etcd_url.rpartition(":")[2])
    addresses = [spec.dynamo_data_address for spec in inventory.with_role("etcd")]
    if not inventory.cluster.dynamo_managed:
        addresses = [require(urlsplit(deployment.settings.etcd_url).hostname, "host in dynamo_etcd_url")]
    assert addresses, "no node has the role etcd: nothing to reach"
    advertised = etcd.member_urls()
    evidence.text("advertised client URLs", "\n".join(advertised))

    def unreached(node: Node) -> list[str]:
        found = []
        for address in addresses:
            argv = [node.python, "-I", "-c", CONNECT, address, str(port)]
            done = node.run(argv, deadline=Deadline(CONNECT_WITHIN_S, f"etcd from {node.name}"), expect=None)
            if done.rc:
                at = f"{with_port(address, port)} ({done.last_words}); etcd advertises {advertised}"
                found.append(f"{node.name} does not reach etcd at {at}")
        return found

    wrong, nodes = Findings(), list(run.nodes().values())
    for node, found in zip(nodes, in_parallel(unreached, nodes), strict=True):
        wrong.extend(found, node=node.name)
    wrong.judge()


@check(
    "M04-13",
    judged="each hangs on a lease that lives, and something listens at its address",
    by_hand="etcdctl get --prefix v1/instances/; ss -tln",
    causes=[20, 21],
)
def test_no_instance_key_is_stale(run: Run, deployment: Deployment, etcd: Etcd):
    """Every instance key has a live lease and a process that accepts connections at its address."""
    dialect, namespace = deployment.settings.dialect, deployment.settings.namespace
    keys = instance_keys(etcd, dialect, namespace)
    assert keys, f"no instance key in {namespace}: nothing to look at"
    node = next(iter(run.nodes().values()))
    stale = Findings()
    for key in keys:
        if not key.lease_id:
            stale.add(f"{key.name} is stale: it hangs on no lease and will never go")
            continue
        if etcd.lease(key.lease_id).remaining_ttl_s <= 0:
            stale.add(f"{key.name} is stale: its lease is gone")
        address, port = split_port(key.json().get("transport", {}).get("tcp", "").partition("/")[0])
        if not address:
            continue  # the NATS request plane names a subject: its lease is all that can be asked
        argv = [node.python, "-I", "-c", CONNECT, address, str(port)]
        done = node.run(argv, deadline=Deadline(CONNECT_WITHIN_S, f"{key.name}"), expect=None, hidden=True)
        if done.rc:
            stale.add(f"{key.name} is stale: no connection to {with_port(address, port)} ({done.last_words})")
    stale.judge()
