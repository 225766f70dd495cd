"""Several nodes as one cluster: each is who the inventory says, they are alike, and they reach one another."""

from collections import defaultdict
from ipaddress import ip_address, ip_network
from itertools import combinations, product
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import by_value, folded, only_other
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.inventory.model import Inventory, NodeSpec
from fixtures.cluster.nodes import Node
from fixtures.cluster.nodes.clock import read_wall_clock
from fixtures.cluster.probes.probe import interface_of, links
from fixtures.cluster.probes.traffic import measured
from fixtures.run import Run
from tests_by_module.module_00_architecture.link_sample import MOST_ROUNDS, drawn, is_sample, left_of, suspects
from tests_by_module.module_00_architecture.link_traffic import judge, judged, ports_of, wrong_with
from tests_by_module.module_00_architecture.reachability import unreached

pytestmark = pytest.mark.needs("multi_node")

CLOCKS_WITHIN_S = 30
LINK_LOCAL_V4, LINK_LOCAL_V6 = ip_network("169.254.0.0/16"), ip_network("fe80::/10")


@pytest.fixture(scope="module")
def links_of(nodes: dict[str, Node]) -> dict[str, dict[str, Any]]:
    """The network interfaces of each node."""
    return dict(zip(nodes, in_parallel(links, list(nodes.values())), strict=True))


def expected_host_name(spec: NodeSpec) -> str | None:
    """What a node is to be called; nothing is expected of one that is declared by its address alone."""
    try:
        ip_address(spec.name)
    except ValueError:
        return spec.dynamo_hostname or spec.name
    return spec.dynamo_hostname


def short(host_name: str) -> str:
    """Without a domain, which one machine is asked for with and another without."""
    return host_name.partition(".")[0].lower()


@check(
    "M00-10",
    judged="each node's own host name is the inventory's (or `dynamo_hostname`), domains aside; no two are equal",
    evidence="table of host names",
    by_hand="on each node: hostname",
)
def test_nodes_have_the_names_that_are_declared(run: Run, inventory: Inventory, evidence: Evidence):
    """Each node has the host name that the inventory gives it, and no two nodes have the same one."""
    told: dict[str, str] = {name: facts["system"]["hostname"] for name, facts in run.facts().items()}
    evidence.table("host names", ["node", "host name"], told.items())
    wrong = [
        f"{spec.name} calls itself {told[spec.name]}: another machine may answer at {spec.ansible_host}; "
        "if it is the right one, declare its name with dynamo_hostname"
        for spec in inventory.nodes
        if (expected := expected_host_name(spec)) and short(expected) != short(told[spec.name])
    ]
    wrong += [f"{a} and {b} both call themselves {told[a]}" for a, b in combinations(told, 2) if told[a] == told[b]]
    Findings(wrong).judge()


@check(
    "M00-11",
    judged="pinned packages of runtimes, etcd and NATS as found on each node, wherever more than one has them",
    evidence="table of versions",
    by_hand="on each node: VENV/bin/python -m pip list; etcd --version",
    causes=[12],
)
@pytest.mark.needs("runtime")
def test_nodes_have_the_same_versions(run: Run, inventory: Inventory, evidence: Evidence):
    """Runtimes, etcd and NATS have the same version on every node that has them."""
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for name, equipment in run.equipment().items():
        for package, version in equipment.runtime.versions.items():
            versions[f"{package} of {inventory.node(name).dynamo_runtime}"][name] = version
        for binary in filter(None, (equipment.etcd_binary, equipment.nats_binary)):
            asked = equipment.node.run([binary, "--version"], deadline=Deadline(10, f"{binary} --version"))
            versions[binary.rpartition("/")[2]][name] = asked.line(r"(.*\d+\.\d+.*)")
    evidence.table("versions", ["what", *run.nodes()], [[it, *map(on.get, run.nodes())] for it, on in versions.items()])
    on_several = {what: on for what, on in versions.items() if len(on) > 1}
    assert on_several, "nothing is installed on more than one node: nothing to compare"
    wrong = Findings()
    for what, on in on_several.items():
        if len(set(on.values())) > 1:
            wrong.add(f"{what} differs between nodes: {by_value(on)}", node=only_other(on))
    wrong.judge()


@check(
    "M00-12",
    judged="the largest offset between two nodes, taken over SSH; half of each round trip is its error and is not "
    "counted",
    evidence="measurements, table of clocks",
    by_hand="on each node: chronyc tracking",
    causes=[80],
)
def test_clocks_agree(nodes: dict[str, Node], measure: Measure, evidence: Evidence):
    """The clocks of any two nodes agree, so that latencies between nodes can be computed from them."""
    clocks = {name: read_wall_clock(node, Deadline(CLOCKS_WITHIN_S, f"{name}'s clock")) for name, node in nodes.items()}
    evidence.table(
        "clocks",
        ["node", "ahead of the controller ms", "± ms"],
        [[name, clock.offset_s * 1000, clock.within_s * 1000] for name, clock in clocks.items()],
    )
    apart = {
        (a, b): max(0.0, abs(clocks[a].offset_s - clocks[b].offset_s) - clocks[a].within_s - clocks[b].within_s)
        for a, b in combinations(clocks, 2)
    }
    (one, other), most = max(apart.items(), key=lambda entry: entry[1])
    evidence.text("largest offset", f"{one} and {other}: {most * 1000:.3f} ms for certain")
    measure("clock_offset_ms", most * 1000, n=len(apart))
    measure("clock_error_ms", max(clock.within_s for clock in clocks.values()) * 1000, n=len(clocks))
    measure.judge()


@check(
    "M00-13",
    judged="each is on an interface of its node: no loopback, not the management's, not link-local",
    evidence="table of interfaces",
    by_hand="on each node: ip address",
    causes=[79],
)
def test_data_addresses_are_on_links_of_their_own(
    inventory: Inventory, links_of: dict[str, dict[str, Any]], evidence: Evidence
):
    """Each node's data address is on an interface of that node, neither loopback nor the management interface."""
    wrong, rows = Findings(), []
    for spec in inventory.nodes:
        found, address = links_of[spec.name], spec.dynamo_data_address
        name = interface_of(address, found)
        managed = spec.dynamo_management_address and interface_of(spec.dynamo_management_address, found)
        rows.append([spec.name, address, name, managed])
        if name is None:
            wrong.add(
                f"{spec.name} has its data address {address} on no interface; it has {', '.join(found)}", node=spec.name
            )
        elif name == "lo":
            wrong.add(
                f"{spec.name}'s data address {address} is on loopback, where no other node reaches it", node=spec.name
            )
        elif name == managed:
            wrong.add(f"{spec.name} has its data address {address} on the management interface {name}", node=spec.name)
        if any(ip_address(address) in network for network in (LINK_LOCAL_V4, LINK_LOCAL_V6)):
            wrong.add(
                f"{spec.name}'s data address {address} is link-local: declare one that stays when a link fails",
                node=spec.name,
            )
    evidence.table("data addresses", ["node", "address", "on interface", "management on"], rows)
    wrong.judge()


@check(
    "M00-14",
    judged="a TCP connection from every node to a listener at each one's data address",
    evidence="connections made",
    by_hand="on each node: nc -l ADDRESS PORT; from others: nc -z ADDRESS PORT",
    causes=[27],
)
def test_nodes_reach_each_others_data_addresses(nodes: dict[str, Node], evidence: Evidence):
    """Every node can open a TCP connection to every other node's data address."""
    failed = unreached(list(nodes.values()))
    ways = list(product(nodes, nodes))
    evidence.text("connections", f"{len(ways) - len(failed)} of {len(ways)} made")
    Findings(failed).judge(ways=ways)


@check(
    "M00-15",
    judged="the MTU of the interfaces that have the data addresses",
    evidence="table of MTUs",
    by_hand="on each node: ip link",
    causes=[68],
)
def test_data_links_have_one_mtu(inventory: Inventory, links_of: dict[str, dict[str, Any]], evidence: Evidence):
    """The interfaces of all data addresses have the same MTU, so that no large packet is lost on the way."""
    mtus = {}
    for spec in inventory.nodes:
        if name := interface_of(spec.dynamo_data_address, links_of[spec.name]):
            mtus[spec.name] = links_of[spec.name][name]["mtu"]
    evidence.table("MTU", ["node", "bytes"], mtus.items())
    if len(mtus) < 2:
        raise CouldNotLook(f"{len(mtus)} nodes have their data address on an interface: nothing to compare")
    wrong = Findings()
    if len(set(mtus.values())) > 1:
        wrong.add(f"the MTU of the data links differs: {by_value(mtus)}", node=only_other(mtus))
    wrong.judge()


@check(
    "M00-17",
    judged="9 times 8 MiB over TCP each way between each two nodes' data addresses, in turn: against the way back, the "
    "other links and what the ports say; round trips; bytes that TCP sends again. Above 16 nodes 15 others of each "
    "node, drawn by the run's seed, then all ways of nodes that fail",
    evidence="measurements, table of links, sample",
    by_hand="on one node: iperf3 -s; on another: iperf3 -c ADDRESS; iperf3 -R -c ADDRESS; ping -M do -s 1472 ADDRESS",
    causes=[27, 68],
)
def test_links_carry_data_alike_in_both_directions(
    run: Run, nodes: dict[str, Node], links_of: dict[str, dict[str, Any]], measure: Measure, evidence: Evidence
):
    """Each link carries data as fast as its way back, the other links and its ports say, and loses nothing."""
    there = list(nodes.values())
    ports = ports_of(there, links_of)
    ways, within = measured(there, drawn(there, run.seed))
    if is_sample(there):
        tried = [way.ends for way in ways]
        wrong = wrong_with(ways, judged(ways, within, ports), measure.blank())
        failed = suspects([each.way for each in wrong if each.way], tried)
        ways += measured(there, left_of(there, failed, set(tried)), within=False)[0] if failed else []
        besides = f"all ways of {folded(failed)}, which fail" if failed else "no more of any node"
        evidence.note(
            "sample",
            f"Each of {len(there)} nodes is measured with {MOST_ROUNDS} others at most, drawn by the seed {run.seed}; "
            f"then {besides}: {len(ways)} of {len(there) * (len(there) - 1)} ways.",
        )
    judge(ways, judged(ways, within, ports), measure, evidence)
