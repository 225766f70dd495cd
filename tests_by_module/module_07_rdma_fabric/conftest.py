"""Fixtures of module 07: the fabric's facts, its declared ports, and one process on each node that runs perftest."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest

from fixtures.basics.errors import BringUpFailed, CouldNotLook
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.labs.plan import holds_dynamo
from fixtures.cluster.nodes import Node, RemoteError
from fixtures.cluster.probes.capabilities import has_torch
from fixtures.fabric.bisection import Bisecting, bisect
from fixtures.fabric.collectives import Collected, Rank, backend_of, collect
from fixtures.fabric.judged import PERFTEST_LOCKS_BYTES, absent_or_down, held_back, wrong_addresses, wrong_gids
from fixtures.fabric.kept import Kept, look_at_files
from fixtures.fabric.limits import limits_of_workers
from fixtures.fabric.load import Load
from fixtures.fabric.perftest import Tool
from fixtures.fabric.ports import HcaPort, OwnLimits, Seen, links, look
from fixtures.on_nodes.fabric import TOOLS
from fixtures.run import Run
from tests_by_module.module_07_rdma_fabric.carried import (
    LASTS_S,
    Alone,
    BothWays,
    Carried,
    OfSizes,
    Spent,
    Together,
    both_ways,
    each_alone,
    each_alone_by,
    of_sizes,
    together,
)

# the checks that own what others stand on
PORTS_CHECK, ADDRESSES_CHECK, GIDS_CHECK, LIMITS_CHECK = "M07-01", "M07-06", "M07-07", "M07-11"
WRITES_CHECK, READS_CHECK = "M07-14", "M07-15"


@pytest.fixture(scope="package")
def fabric_nodes(run: Run) -> dict[str, Node]:
    """The nodes that declare rdma, by name."""
    nodes = {name: node for name, node in run.nodes().items() if "rdma" in node.spec.dynamo_capabilities}
    return run.at("module_07.nodes", nodes)


@pytest.fixture(scope="package")
def spent() -> Spent:
    return Spent(time.monotonic(), 0.0)


@pytest.fixture(scope="package")
def seen(run: Run, fabric_nodes: dict[str, Node], spent: Spent) -> dict[str, Seen]:
    """What each node's fabric is, by its name. BringUpFailed where one does not answer."""
    began = time.monotonic()
    try:
        looks = in_parallel(look, list(fabric_nodes.values()))
    except RemoteError as error:
        raise BringUpFailed(PORTS_CHECK, str(error)) from error
    spent.facts_s = time.monotonic() - began
    return {
        name: Seen(name, run.at("module_07.facts", facts, node=name))
        for name, facts in zip(fabric_nodes, looks, strict=True)
    }


@pytest.fixture(scope="package")
def kept(fabric_nodes: dict[str, Node], spent: Spent) -> dict[str, Kept]:
    """What the files of each node give to its interfaces at boot, by its name. Raises RemoteError."""
    began = time.monotonic()
    looks = in_parallel(look_at_files, list(fabric_nodes.values()))
    spent.facts_s += time.monotonic() - began
    return dict(zip(fabric_nodes, looks, strict=True))


@pytest.fixture(scope="package")
def of_services(run: Run, inventory: Inventory, fabric_nodes: dict[str, Node]) -> dict[str, OwnLimits]:
    """What a process of each node's workers may do, started as these are; empty where the suite starts none."""
    if not inventory.cluster.dynamo_managed:
        return {}
    if holds_dynamo(inventory):
        runtimes = {name: it.worker_runtime or it.runtime for name, it in run.equipment().items()}
    else:
        runtimes = run.environments()

    def changed(argv: list[str], node: str) -> list[str]:
        return run.at("module_07.worker", argv, node=node)

    nodes = list(fabric_nodes.values())
    looks = in_parallel(lambda node: limits_of_workers(node, runtimes[node.name], changed), nodes)
    return dict(zip(fabric_nodes, looks, strict=True))


@pytest.fixture(scope="package")
def ports(seen: dict[str, Seen], fabric_nodes: dict[str, Node]) -> dict[str, list[HcaPort]]:
    """The declared ports of each node, all of them up. BringUpFailed where one is not."""
    declared = {name: fabric_nodes[name].spec.rdma_ports for name in seen}
    if bad := [name for name, each in seen.items() if absent_or_down(each, declared[name])]:
        raise BringUpFailed(PORTS_CHECK, f"not all declared ports of {', '.join(bad)} are up")
    return {name: each.ports(declared[name]) for name, each in seen.items()}


@pytest.fixture(scope="package")
def rails(ports: dict[str, list[HcaPort]]) -> list[tuple[HcaPort, HcaPort]]:
    """The links between each two nodes. Raises CouldNotLook where only one node declares rdma."""
    names = list(ports)
    found = [
        link for at, one in enumerate(names) for other in names[at + 1 :] for link in links(ports[one], ports[other])
    ]
    if not found:
        raise CouldNotLook(f"only {', '.join(names)} declares rdma: there is no link between two nodes to look at")
    return found


@pytest.fixture(scope="package")
def routed(
    seen: dict[str, Seen], ports: dict[str, list[HcaPort]], rails: list[tuple[HcaPort, HcaPort]]
) -> list[tuple[HcaPort, HcaPort]]:
    """The rails, over which each end has a way to the other one. BringUpFailed where addresses or GIDs are wrong."""
    if wrong := wrong_addresses(ports, {name: each.interfaces for name, each in seen.items()}):
        raise BringUpFailed(ADDRESSES_CHECK, *wrong)
    if wrong := wrong_gids(port for mine in ports.values() for port in mine):
        raise BringUpFailed(GIDS_CHECK, *wrong)
    return rails


@pytest.fixture(scope="package")
def load(
    run: Run, fabric_nodes: dict[str, Node], seen: dict[str, Seen], routed: list[tuple[HcaPort, HcaPort]]
) -> Iterator[Load]:
    """Ends of perftest on all nodes. BringUpFailed where memory cannot be locked, CouldNotLook without perftest."""
    if wrong := [each for node in seen.values() for each in held_back(node.limits, "processes", PERFTEST_LOCKS_BYTES)]:
        raise BringUpFailed(LIMITS_CHECK, *wrong)
    for name, each in seen.items():
        if absent := [tool for tool in (*TOOLS, "stdbuf") if tool not in each.facts.tools]:
            raise CouldNotLook(f"{name}: {', '.join(absent)} is not in PATH: install perftest (and coreutils)")
    with Load(fabric_nodes, lambda argv, port: run.at("module_07.command", argv, port=port)) as load:
        yield load


@pytest.fixture(scope="package")
def alone(run: Run, load: Load, ports: dict[str, list[HcaPort]]) -> Alone:
    """What ib_write_bw carried each way over each rail, with nothing else on it."""
    return each_alone(load, ports)


@pytest.fixture(scope="package")
def sound(alone: Alone) -> Alone:
    """The same, where each way carried something. BringUpFailed where one did not."""
    if alone.refused:
        raise BringUpFailed(WRITES_CHECK, *map(str, alone.refused.values()))
    return alone


@pytest.fixture(scope="package")
def by_others(load: Load, ports: dict[str, list[HcaPort]], sound: Alone) -> dict[Tool, Alone]:
    """What reads and sends carried each way over each rail, with nothing else on it."""
    tools: tuple[Tool, ...] = ("ib_read_bw", "ib_send_bw")
    return {tool: each_alone_by(tool, load, ports, sound) for tool in tools}


@pytest.fixture(scope="package")
def by_size(load: Load, ports: dict[str, list[HcaPort]], sound: Alone) -> OfSizes:
    """What messages of each size carried each way over each rail, with nothing else on it."""
    return of_sizes(load, ports, sound)


@pytest.fixture(scope="package")
def in_both(load: Load, ports: dict[str, list[HcaPort]], sound: Alone) -> BothWays:
    """What each rail carried in both directions at once, with nothing else on it."""
    return both_ways(load, ports, sound)


@pytest.fixture(scope="package")
def at_once(load: Load, ports: dict[str, list[HcaPort]], sound: Alone) -> Together:
    """What all rails carried at once, one direction after the other, and both."""
    return together(load, ports, sound)


@pytest.fixture(scope="package")
def reads_at_once(load: Load, ports: dict[str, list[HcaPort]], by_others: dict[Tool, Alone]) -> Together:
    """What all rails carried at once by reads. BringUpFailed where one carried no read alone."""
    reads = by_others["ib_read_bw"]
    if reads.refused:
        raise BringUpFailed(READS_CHECK, *map(str, reads.refused.values()))
    return together(load, ports, reads, "ib_read_bw", LASTS_S)


@pytest.fixture(scope="package")
def loads(alone: Alone, request: pytest.FixtureRequest) -> list[Carried]:
    """All loads during which the nodes counted; those alone only, where a way carried nothing."""
    if alone.refused:
        return [alone]
    by_others: dict[Tool, Alone] = request.getfixturevalue("by_others")
    names = ["in_both", "at_once", "by_size", *([] if by_others["ib_read_bw"].refused else ["reads_at_once"])]
    return [alone, *by_others.values(), *(request.getfixturevalue(name) for name in names)]


@pytest.fixture(scope="package")
def torch_nodes(run: Run, inventory: Inventory) -> dict[str, Node]:
    """The nodes whose runtime has torch, by name."""
    return {name: node for name, node in run.nodes().items() if has_torch(inventory, node.spec)}


@pytest.fixture(scope="package")
def collecting(
    run: Run, torch_nodes: dict[str, Node], request: pytest.FixtureRequest
) -> Callable[[Sequence[Node]], Collected]:
    """Does collectives over nodes: on GPUs by NCCL with the declared RDMA devices, else on processors by gloo."""
    every = list(torch_nodes.values())
    backend = backend_of(every)
    over_rdma = backend == "nccl" and any("rdma" in node.spec.dynamo_capabilities for node in every)
    ports: dict[str, list[HcaPort]] = request.getfixturevalue("ports") if over_rdma else {}

    def changed(argv: list[str], rank: Rank) -> list[str]:
        return run.at("module_07.rank", argv, rank=rank)

    return lambda nodes: collect(nodes, backend, run.environments(), ports, run.seed, changed)


@pytest.fixture(scope="package")
def collectives(collecting: Callable[[Sequence[Node]], Collected], torch_nodes: dict[str, Node]) -> Collected:
    """Collectives over all these nodes."""
    return collecting(list(torch_nodes.values()))


@pytest.fixture(scope="package")
def bisecting(collecting: Callable[[Sequence[Node]], Collected], torch_nodes: dict[str, Node]) -> Bisecting:
    """The same over halves and pairs of these nodes, each done once."""
    nodes, once = tuple(torch_nodes.values()), cache(collecting)
    return lambda fails: bisect(nodes, once, fails)
