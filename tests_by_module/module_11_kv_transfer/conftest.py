"""Fixtures of module 11: processes with a NIXL agent each, on nodes that run workers. No engine, no Dynamo."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import BringUpFailed
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import RemoteError
from fixtures.cluster.probes.capabilities import NIXL
from fixtures.kv.pair import Pair
from fixtures.kv.side import Refused, Side
from fixtures.run import Run
from tests_by_module.module_11_kv_transfer.ends import end

AGENTS_CHECK, METADATA_CHECK, GPU_MEMORY_CHECK = "M11-01", "M11-02", "M11-16"
MIB = 2**20


@pytest.fixture(scope="package")
def sides(run: Run, inventory: Inventory) -> Iterator[list[Side]]:
    """Two ends on the first node that runs workers with NIXL; one more there and one on the second, if there is one."""
    nodes = [spec.name for spec in inventory.with_role("worker") if NIXL in spec.dynamo_capabilities]
    ends = [(nodes[0], 0), (nodes[0], 1), *((node, 0) for node in nodes[:2] if len(nodes) > 1)]
    with ExitStack() as started:
        try:
            sides = [started.enter_context(end(run, f"kv-{n}", *where)) for n, where in enumerate(ends, 1)]
        except (Refused, RemoteError, DeadlineExceeded) as error:
            raise BringUpFailed(AGENTS_CHECK, str(error)) from error
        yield sides


def connected(near: Side, far: Side, inventory: Inventory) -> Pair:
    pair = Pair(near, far, inventory.cluster.dynamo_kv_transfer_mb_max * MIB)
    try:
        pair.connect()
    except (Refused, RemoteError) as error:
        raise BringUpFailed(METADATA_CHECK, str(error)) from error
    return pair


def on_gpu(ends: Pair) -> Pair:
    """The same ends with memory of their GPUs. Raises BringUpFailed."""
    pair = Pair(ends.near, ends.far, ends.size, kind="VRAM")
    try:
        pair.connect()
    except (Refused, RemoteError) as error:
        raise BringUpFailed(GPU_MEMORY_CHECK, str(error)) from error
    return pair


@pytest.fixture(scope="package")
def neighbours(sides: list[Side], inventory: Inventory) -> Pair:
    """Two processes of one node."""
    return connected(sides[0], sides[1], inventory)


@pytest.fixture(scope="package")
def two_nodes(sides: list[Side], inventory: Inventory) -> Pair:
    """Processes of two nodes. BringUpFailed where only one declares NIXL."""
    if len(sides) < 4:
        raise BringUpFailed(AGENTS_CHECK, "only one node that runs workers declares nixl")
    return connected(sides[2], sides[3], inventory)


@pytest.fixture(scope="package")
def pair(sides: list[Side], request: pytest.FixtureRequest) -> Pair:
    """Two ends as workers would be: on two nodes where the inventory has two, else on the one."""
    return request.getfixturevalue("two_nodes" if len(sides) > 2 else "neighbours")


@pytest.fixture(scope="package")
def gpu_neighbours(neighbours: Pair) -> Pair:
    """Two processes of one node, with memory of its GPU, or of one GPU each where several are declared."""
    return on_gpu(neighbours)


@pytest.fixture(scope="package")
def gpu_two_nodes(two_nodes: Pair) -> Pair:
    """Processes of two nodes, with memory of their GPUs."""
    return on_gpu(two_nodes)


@pytest.fixture(scope="package")
def gpu_pairs(gpu_neighbours: Pair, sides: list[Side], request: pytest.FixtureRequest) -> list[Pair]:
    """All pairs of ends with memory of GPUs: on one node, and on two where there are two with KV on GPUs."""
    between = [request.getfixturevalue("kv_two_nodes")] if len(sides) > 2 else []
    return [gpu_neighbours, *(pair for pair in between if pair.kind == "VRAM")]


@pytest.fixture(scope="package")
def kv_neighbours(neighbours: Pair, inventory: Inventory, request: pytest.FixtureRequest) -> Pair:
    """Two processes of one node, with memory of the kind that KV is in."""
    on_gpu_there = inventory.kv_is_on_gpu(neighbours.near.node.name)
    return request.getfixturevalue("gpu_neighbours") if on_gpu_there else neighbours


@pytest.fixture(scope="package")
def kv_two_nodes(two_nodes: Pair, inventory: Inventory, request: pytest.FixtureRequest) -> Pair:
    """Processes of two nodes, with memory of the kind that KV is in on both."""
    on_gpus = all(inventory.kv_is_on_gpu(end.node.name) for end in (two_nodes.near, two_nodes.far))
    return request.getfixturevalue("gpu_two_nodes") if on_gpus else two_nodes


@pytest.fixture(scope="package")
def kv_pair(sides: list[Side], request: pytest.FixtureRequest) -> Pair:
    """As `pair`, with memory of the kind that KV is in."""
    return request.getfixturevalue("kv_two_nodes" if len(sides) > 2 else "kv_neighbours")


@pytest.fixture(scope="package")
def sizes(inventory: Inventory) -> list[int]:
    """Bytes of the transfers: 4 KiB, sixteen times as much, and so on up to the inventory's largest."""
    largest = inventory.cluster.dynamo_kv_transfer_mb_max * MIB
    steps = [4096 * 16**n for n in range(8) if 4096 * 16**n < largest]
    return [*steps, largest]


@pytest.fixture(scope="package")
def spares() -> Iterator[int]:
    """Numbers for names: an end that was broken leaves its socket behind."""
    return itertools.count(1)


@pytest.fixture
def spare(run: Run, pair: Pair, spares: Iterator[int]) -> Iterator[Side]:
    """An end for a check to break, on the node of the pair's far end."""
    with end(run, f"kv-spare-{next(spares)}", pair.far.node.name) as side:
        yield side


@pytest.fixture
def survivor(run: Run, pair: Pair, spares: Iterator[int]) -> Iterator[Side]:
    """An end that is to outlive its peer, on the node of the pair's near end: no other check's, in case it does not."""
    with end(run, f"kv-spare-{next(spares)}", pair.near.node.name) as side:
        yield side
