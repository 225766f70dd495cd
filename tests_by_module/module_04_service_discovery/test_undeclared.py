"""Who is there besides what the inventory declares: on the deployment's etcd and NATS, and in front of its frontend."""

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.parallel import in_parallel
from fixtures.basics.printable import head
from fixtures.clients import http
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import families, sockets
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.topology import Component, Picture, draw
from fixtures.run import Run

ANSWERS_WITHIN_S = 10
# what a proxy, a gateway or a cache says of itself; Dynamo's frontend sends none of these
OF_A_MIDDLEBOX = ("via", "server", "x-cache", "age", "x-served-by", "x-envoy-upstream-service-time", "cf-ray")


@check(
    "M04-24",
    judged="on each node the processes of Dynamo that are connected to the deployment's etcd or NATS, against those "
    "behind the declared ports and those of registered workers of any model, and their children",
    evidence="table of connections",
    by_hand="ss -tnp state established dport = :2379",
    causes=[28],
)
@pytest.mark.needs("worker_port")
def test_nobody_else_uses_the_control_plane(run: Run, deployment: Deployment, inventory: Inventory, evidence: Evidence):
    """No frontend or worker besides the declared ones is connected to the deployment's etcd or NATS."""
    if deployment.shared and (others := deployment.other_namespaces()):
        raise NotOffered(
            f"other namespaces use this etcd, so it is not known whose a process is: {', '.join(others)} beside "
            f"{deployment.settings.namespace} (dynamo_namespace)"
        )
    nodes = run.nodes()
    picture = draw(deployment, inventory, nodes)
    seen = dict(zip(nodes, in_parallel(sockets, list(nodes.values())), strict=True))
    ours = {name: pids_of(deployment, picture, node, seen[name]) for name, node in nodes.items()}
    servers = {each.kind: each for each in picture.components if each.kind in ("etcd", "nats") and each.found}
    connected = {
        (node, server): connected_to(found, component, seen[component.node])
        for node, found in seen.items()
        for server, component in servers.items()
    }
    further = further_frontends(inventory, picture, connected)
    rows = [
        (node, server, pid, " ".join(argv[:4]), pid in ours[node] or pid == further.get(node))
        for (node, server), processes in connected.items()
        for pid, argv in sorted(processes.items())
    ]
    evidence.table("processes of Dynamo", ["node", "connected to", "process", "command", "declared"], rows)
    if not rows:
        raise CouldNotLook(
            "no process of Dynamo is seen to be connected to etcd or NATS on any node: it takes the user that runs "
            "Dynamo, or root, to see whose a connection is"
        )
    Findings(
        f"process {pid} on {node} ({head(command)}) is connected to {server} and belongs to no declared frontend or "
        "worker: end it, or declare it"
        for node, server, pid, command, declared in rows
        if not declared
    ).judge()


def pids_of(deployment: Deployment, picture: Picture, node: Node, seen: Mapping[str, Any]) -> set[int]:
    """What this run has started on a node, or what is behind the deployment's ports, with all that descend from it."""
    pids = {each.pid for each in picture.components if each.node == node.name and each.pid}
    places = {(each.address, each.port) for each in deployment.registered_workers(every_model=True)}
    pids |= {each["pid"] for each in seen["listening"] if each["pid"] and tuple(each["local"]) in places}
    if isinstance(deployment, ManagedDeployment):
        mine = [each for each in deployment.services if each.node.name == node.name and each.is_alive()]
        pids |= {each.require_process().pgid for each in mine}
    family = families(node, pids, ()) if pids else {}
    return pids | {int(member["pid"]) for members in family.values() for member in members}


def further_frontends(
    inventory: Inventory, picture: Picture, connected: Mapping[tuple[str, str], Mapping[int, list[str]]]
) -> dict[str, int]:
    """By node, the process of a frontend that is declared there and of which no address is known.

    Of those `connected` to this deployment's servers the one with the lowest number: others may run there as well.
    """
    known = {each.node for each in picture.components if each.kind == "frontend" and each.found}
    there = {spec.name: set[int]() for spec in inventory.with_role("frontend") if spec.name not in known}
    for (node, _), processes in connected.items():
        if node in there:
            there[node] |= {pid for pid, argv in processes.items() if "dynamo.frontend" in argv}
    return {node: min(pids) for node, pids in there.items() if pids}


def connected_to(found: Mapping[str, Any], server: Component, there: Mapping[str, Any]) -> dict[int, list[str]]:
    """The command lines, by process, of what is Dynamo's in a node's connections to the server on the node `there`."""
    addresses = {*there["addresses"], *(address for address, _ in server.listening)}
    if found is there:
        addresses |= {"127.0.0.1", "::1"}
    ports = {port for _, port in server.listening}
    return {
        each["pid"]: argv
        for each in found["connections"]
        if each["pid"] and each["remote"][0] in addresses and each["remote"][1] in ports
        for argv in [list((found["processes"].get(str(each["pid"])) or {}).get("argv", ()))]
        if is_dynamo(argv)
    }


def is_dynamo(argv: Iterable[str]) -> bool:
    return any(word.startswith("dynamo.") or "/dynamo/" in word for word in argv)


@check(
    "M04-25",
    judged="headers that a proxy, gateway or cache adds, in the answers to a list of models and to a wrong path",
    evidence="headers",
    by_hand="curl -i FRONTEND/v1/models",
)
def test_nobody_stands_between_client_and_frontend(deployment: Deployment, inventory: Inventory, evidence: Evidence):
    """The frontend itself answers: no proxy, gateway or cache speaks in its place that the inventory does not name."""
    direct = inventory.cluster.dynamo_frontend_direct_url
    if direct and direct != inventory.cluster.dynamo_frontend_url:
        raise NotOffered(
            "dynamo_frontend_direct_url differs from dynamo_frontend_url: a proxy is declared, and seen as such"
        )
    headers: dict[str, dict[str, str]] = {}
    for path in ("/v1/models", "/no-such-path"):
        try:
            headers[path] = dict(http.get(deployment.endpoint.url + path, ANSWERS_WITHIN_S).headers)
        except httpx.HTTPError as error:
            raise CouldNotLook(f"{deployment.endpoint.url}{path}: {error!r}") from error
    rows = [(path, name, value) for path, found in headers.items() for name, value in found.items()]
    evidence.table("headers", ["path", "header", "value"], rows)
    Findings(
        f"the answer to {path} has the header {name}: {head(value)}, which Dynamo's frontend does not send: a proxy, "
        "gateway or cache stands at dynamo_frontend_url. Ask the frontend itself, or name its own address as "
        "dynamo_frontend_direct_url"
        for path, name, value in rows
        if name.lower() in OF_A_MIDDLEBOX
    ).judge()
