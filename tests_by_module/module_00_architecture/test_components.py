"""Components, addresses and versions: the live system against the inventory."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.clients.inference import listed_models
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes.addresses import split_port
from fixtures.cluster.probes.capabilities import PRIVATE_NETWORK
from fixtures.cluster.probes.offered import is_declared
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.offered import look
from fixtures.product.deployments.registry import event_channels_of
from fixtures.product.deployments.topology import ANY_ADDRESS, Component, Picture
from fixtures.product.services.dynamo import Settings
from fixtures.run import Run
from tests_by_module.module_00_architecture.request_path import RequestPath


@check(
    "M00-01",
    judged="connected over SSH or locally, our probe ran, a lease for this run was granted, for each node of the "
    "inventory",
    evidence="table of nodes",
    by_hand="ansible -i INVENTORY all -m ping",
)
@pytest.mark.smoke
def test_every_declared_node_answers(run: Run, evidence: Evidence):
    """Every declared node answers, runs the suite's probe and grants this run its lease."""
    found = run.facts()
    evidence.table(
        "nodes",
        ["node", "host name", "architecture", "kernel", "CPUs", "memory GB"],
        [
            [
                name,
                f["system"]["hostname"],
                f["system"]["architecture"],
                f["system"]["kernel"],
                f["cpu"]["count"],
                round(f["memory"]["total_gb"], 1),
            ]
            for name, f in found.items()
        ],
    )
    declared = {spec.name for spec in run.inventory.nodes}
    assert set(found) == declared, f"expected the nodes {sorted(declared)} to answer, got {sorted(found)}"
    Findings(run.silent).judge()


@check(
    "M00-02",
    judged="a real completion of one token through frontend, router and a worker",
    evidence="parts of the bring-up, in seconds",
    by_hand="curl FRONTEND/v1/completions -d '{…, \"max_tokens\": 1}'",
    causes=[19, 26, 28],
)
@pytest.mark.smoke
def test_deployment_comes_up_and_answers(run: Run, evidence: Evidence):
    """The declared deployment comes up and answers a one-token completion through frontend, router and a worker."""
    deployment = run.deployment()
    answer = deployment.first_answer
    evidence.table(
        "bring-up", ["part", "start s", "duration s"], [[p.what, p.start_s, p.duration_s] for p in deployment.phases]
    )
    assert answer.ok, f"the first completion: {answer.describe()}"
    assert answer.usage and answer.usage["completion_tokens"] == 1, f"one token was asked for: {answer.describe()}"


@check(
    "M00-03",
    judged="listening processes and etcd's keys against the inventory: none missing, none more, none in another "
    "namespace, none registered with nobody behind",
    evidence="table of components",
    by_hand="etcdctl get --prefix v1/instances/",
    causes=[21, 28],
)
@pytest.mark.needs("worker_port")
@pytest.mark.smoke
def test_components_found_are_those_declared(
    picture: Picture, deployment: Deployment, inventory: Inventory, evidence: Evidence
):
    """The nodes and etcd hold exactly the components that the inventory declares: none missing, none extra."""
    evidence.table(
        "components",
        ["component", "node", "address", "version", "declared", "found"],
        [[c.id, c.node, c.address, c.version, c.declared, c.found] for c in picture.components],
    )
    elsewhere = deployment.other_namespaces() if inventory.cluster.dynamo_managed else []
    absent = [c for c in picture.components if not c.found]
    wrong = [
        f"{c.id} is registered at {c.address}, and nothing listens there"
        if c.instance_id
        else f"{c.id} ({c.kind}) is missing: declared for {c.node}, and not found"
        for c in absent
    ]
    wrong += [
        f"{c.id} at {c.address} on {c.node} is not in the inventory, which declares "
        f"{deployment.declared_workers.get(c.node, 0)} workers there"
        for c in picture.components
        if c.found and not c.declared
    ]
    if elsewhere:
        wrong.append(f"workers are registered in other namespaces of this etcd: {', '.join(elsewhere)}")
    Findings(wrong).judge()


@check(
    "M00-04",
    judged="each is reached at its node's data address; none listens on every address, unless `private_network` is "
    "declared",
    evidence="listening sockets",
    by_hand="ss -tlnp",
    causes=[27],
)
@pytest.mark.needs("worker_port")
def test_components_listen_where_the_inventory_says(
    run: Run, picture: Picture, deployment: Deployment, inventory: Inventory, evidence: Evidence
):
    """Each component listens at its node's data address, and none listens where everyone can reach it."""
    found = [component for component in picture.components if component.found]
    assert found, "no component was found: nothing to look at"
    evidence.table(
        "listening sockets",
        ["component", "node", "address", "port"],
        [[c.id, c.node, *local] for c in found for local in c.listening],
    )
    wrong = Findings()
    for component in found:
        declared = inventory.node(component.node).dynamo_data_address
        address = split_port(component.address)[0]
        # what somebody else has started on one node may reach its parts at any address that is that node's own
        alone = not inventory.cluster.dynamo_managed and len(inventory.nodes) == 1
        own = run.facts()[component.node]["network"].get("addresses", []) if alone else []
        if address != declared and address not in own:
            wrong.add(
                f"{component.id} is reached at {component.address}, and {component.node}'s data address is {declared}"
            )
    if run.capabilities().look([PRIVATE_NETWORK]).state != "ready":
        wrong.extend(reached_by_everyone(found, deployment))
    wrong.judge()


def reached_by_everyone(found: list[Component], deployment: Deployment) -> list[str]:
    """What listens on every address of its node, in one sentence; publishers of events, which must, in another."""
    with deployment.etcd_client() as etcd:
        channels = event_channels_of(etcd, deployment.settings.dialect, deployment.settings.namespace)
    zmq_ports = {int(each.address.rpartition(":")[2]) for each in channels if each.plane == "zmq"}
    publishers: list[str] = []
    others: list[str] = []
    for component in found:
        for bound, port in component.listening:
            if bound in ANY_ADDRESS:
                publishes = component.kind == "worker" and port in zmq_ports
                (publishers if publishes else others).append(f"{component.id} on {component.node} at port {port}")
    accepted = f"declare {PRIVATE_NETWORK} for all nodes if nobody else reaches them"
    variable = deployment.settings.dialect.environment.settings["event_plane"]
    told = {
        f"listen on every address: bind them to the data address, or {accepted}": others,
        "are ZMQ publishers of events, which bind every address whatever is set: "
        f"set {variable}=nats, or {accepted}": publishers,
    }
    return [f"{', '.join(parts)} {what}" for what, parts in told.items() if parts]


@check(
    "M00-05",
    judged="the version in the environment of each process that is found behind a port, not the one we installed",
    evidence="versions and commands",
    by_hand="VENV/bin/python -m dynamo.frontend --version",
    causes=[12],
)
@pytest.mark.needs("worker_port")
def test_live_processes_run_the_declared_version(picture: Picture, run: Run, evidence: Evidence):
    """Every serving process runs the declared version of Dynamo; etcd and NATS report their versions."""
    declared = {"frontend": run.product_version(), "worker": run.worker_version()}
    dynamo = [c for c in picture.components if c.found and c.kind in declared]
    assert dynamo, "no frontend or worker was found: nothing to look at"
    evidence.table(
        "versions",
        ["component", "version", "command"],
        [[c.id, c.version, " ".join(c.argv[:3])] for c in picture.components],
    )
    unknown = [c.id for c in picture.components if c.found and not c.version]
    if unknown:
        raise CouldNotLook(
            f"cannot read the version of {', '.join(unknown)}: a process shows it only where dynamo is an installed "
            "package, and only to its own user and to root; a server reports it on request"
        )
    wrong = [
        f"{c.id} on {c.node}: expected ai-dynamo {declared[c.kind]}, got {c.version}"
        for c in dynamo
        if c.version != declared[c.kind]
    ]
    Findings(wrong).judge()


@check(
    "M00-06",
    judged="established TCP connections once each worker was sent a request: frontend and workers to etcd and NATS, "
    "frontend to each worker",
    evidence="connections",
    by_hand="ss -tnp state established",
    causes=[20],
)
@pytest.mark.needs("worker_port")
def test_components_are_connected_as_the_picture_shows(picture: Picture, deployment: Deployment, evidence: Evidence):
    """Frontend and workers are connected to etcd and, where a plane uses it, to NATS; the frontend to each worker."""
    planes = deployment.settings
    servers = servers_of(picture, planes)
    workers, frontends = picture.of_kind("worker"), picture.of_kind("frontend")
    assert workers and frontends, "no worker or no frontend was found: nothing to look at"
    expected = [(process, server) for process in workers + frontends for server in servers]
    if planes.request_plane == "tcp":
        expected += [(frontend, worker) for frontend in frontends for worker in workers]
    evidence.table("connections", ["from", "to", "what"], [[e.source, e.target, e.protocol] for e in picture.edges])
    absent = [f"{a.id} is not connected to {b.id}" for a, b in expected if not picture.connected(a, b)]
    Findings(absent).judge()


def servers_of(picture: Picture, planes: Settings) -> list[Component]:
    """The servers that frontend and workers keep connections to. Raises AssertionError when one was not found."""
    kinds = ["etcd", *(["nats"] if "nats" in (planes.event_plane, planes.request_plane) else [])]
    found = {kind: picture.of_kind(kind) for kind in kinds}
    absent = [kind for kind, components in found.items() if not components]
    assert not absent, f"no {' and no '.join(absent)} was found: its connections cannot be looked at"
    return [component for components in found.values() for component in components]


@check(
    "M00-08",
    judged="`/v1/models` lists it, alone where the suite has started it, and answers carry its name",
    by_hand="curl FRONTEND/v1/models",
    causes=[24],
)
def test_served_model_is_the_declared_one(deployment: Deployment, request_path: RequestPath):
    """The frontend lists the declared model, others only where it is shared, and answers under its name."""
    declared = deployment.settings.model_name
    listed = listed_models(deployment.endpoint)
    assert deployment.is_listed(listed), f"the frontend lists the models {listed}, expected {declared}"
    named = {answer.body.get("model") for answer in request_path.answers}
    assert named == {declared}, f"answers name the model {named}, expected {declared}"


@check(
    "M00-09",
    judged="declared against probed on each node, both ways; an embedded profile only reports what else is found",
    evidence="found and not declared",
    by_hand="nvidia-smi -L; rdma link",
)
def test_capabilities_found_are_those_declared(run: Run, inventory: Inventory, evidence: Evidence):
    """Every declared capability is present. An undeclared one fails the check, except in an embedded inventory."""
    table = run.capabilities()
    missing, undeclared = table.missing(), table.undeclared()
    if inventory.cluster.dynamo_embedded:
        evidence.text("found and not declared", "\n".join(undeclared) or "nothing")
        undeclared = []
    Findings(missing + undeclared).judge()


@check(
    "M00-16",
    judged="the transports and publishers that workers have registered in etcd; an answer predicts hits in mode kv "
    "only",
    evidence="table: declared and found",
    by_hand="etcdctl get --prefix v1/event_channels/; etcdctl get --prefix v1/instances/",
)
def test_planes_and_router_are_those_declared(deployment: Deployment, inventory: Inventory, evidence: Evidence):
    """Requests and events go over the declared planes, and the router predicts hits only in the declared mode kv."""
    cluster, found = inventory.cluster, look(deployment)
    published = "not known" if found.event_planes is None else " and ".join(sorted(found.event_planes)) or "none"
    shown = {
        "dynamo_request_plane": " and ".join(sorted(found.request_planes)),
        "dynamo_event_plane": published,
        "dynamo_router_mode": "predicts hits" if found.kv_router else "predicts no hits",
    }
    declared = {name: getattr(cluster, name) if is_declared(cluster, name) else None for name in shown}
    evidence.table("planes", ["what", "declared", "found"], [[n, declared[n], seen] for n, seen in shown.items()])
    assert found.request_planes, "no worker has registered where it takes requests: nothing to look at"
    wrong = found.otherwise(cluster)
    Findings(wrong).judge()
