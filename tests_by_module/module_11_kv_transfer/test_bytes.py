"""What was sent is what arrives: READ and WRITE, small and large, one block and many."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.kv.pair import Operation, Pair, scattered, whole
from fixtures.run import Run

pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker")]
BLOCKS, BLOCK_BYTES = 1024, 4096
OPERATIONS: tuple[Operation, ...] = ("WRITE", "READ")


def each_size(pair: Pair, sizes: list[int], seed: int, evidence: Evidence) -> list[str]:
    """Each size by each operation, with bytes of its own: what did not arrive whole; a table of what they took."""
    evidence.nodes(pair.near.node.name, pair.far.node.name)
    moved = [
        pair.moved(operation, whole(size), seed=seed + number, times=2)
        for number, size in enumerate(sizes)
        for operation in OPERATIONS
    ]
    rows = [
        (each.operation, each.bytes, f"{1000 * min(each.took_s):.3g}", f"{each.best_bytes_per_s / 1e9:.3g}")
        for each in moved
    ]
    evidence.table(f"Transfers between {pair}", ("operation", "bytes", "ms (best)", "GB/s"), rows)
    return [mistake for each in moved for mistake in each.mistakes()]


@check(
    "M11-03",
    judged="READ and WRITE, 4 KiB to the inventory's largest, SHA-256 at both ends",
    evidence="table of sizes",
    by_hand='ask a \'{"do": "move", "operation": "WRITE", "peer": "b", …}\'; sha256sum of the memory at both ends',
)
def test_bytes_arrive_whole_between_two_processes(
    neighbours: Pair, sizes: list[int], run: Run, evidence: Evidence
) -> None:
    """Bytes arrive intact between two processes of a node."""
    Findings(each_size(neighbours, sizes, run.seed, evidence)).judge()


@check(
    "M11-06",
    judged="READ and WRITE between two nodes, 4 KiB to the inventory's largest, SHA-256 at both ends",
    evidence="table of sizes",
    by_hand="the same with one end on each node",
)
@pytest.mark.needs("multi_node")
def test_bytes_arrive_whole_between_two_nodes(two_nodes: Pair, sizes: list[int], run: Run, evidence: Evidence) -> None:
    """Bytes arrive intact between two nodes."""
    Findings(each_size(two_nodes, sizes, run.seed, evidence)).judge()


@check(
    "M11-04",
    judged="1024 blocks of 4 KiB in reverse order with room between: SHA-256 in order, the room untouched",
    evidence="measurement",
    by_hand='ask a \'{"do": "move", …, "blocks": [[OFFSET, OFFSET, 4096], …]}\'',
)
def test_many_small_blocks_arrive_each_in_its_place(pair: Pair, run: Run, evidence: Evidence, measure: Measure) -> None:
    """Many small blocks arrive, each in its place."""
    evidence.nodes(pair.near.node.name, pair.far.node.name)
    found = Findings()
    for operation in OPERATIONS:
        many = pair.moved(operation, scattered(BLOCKS, BLOCK_BYTES), seed=run.seed, times=5)
        found.extend(many.mistakes())
        if operation == "WRITE":
            one = pair.moved(operation, whole(BLOCKS * BLOCK_BYTES), seed=run.seed, times=5)
            measure("time_of_1024_blocks_over_one", min(many.took_s) / min(one.took_s), n=5)
    found.judge()
    measure.judge()


@check(
    "M11-05",
    judged="its telemetry against what was asked for, each size",
    by_hand='ask a \'{"do": "move", …}\': "counted" in its answer',
)
def test_nixl_counts_the_bytes_that_it_moved(pair: Pair, sizes: list[int]) -> None:
    """NIXL counts exactly the bytes that it moved."""
    found = Findings()
    for operation in OPERATIONS:
        for size in sizes:
            counted = pair.done(operation, whole(size))["counted"]
            if counted != size:
                found.add(f"{operation} of {size} bytes between {pair}: NIXL's telemetry counted {counted}")
    found.judge()


@check(
    "M11-16",
    judged="READ and WRITE of GPU memory, 4 KiB to the inventory's largest, SHA-256 at both ends",
    evidence="table of sizes",
    by_hand="the same with memory of the kind VRAM",
)
@pytest.mark.needs("gpu", role="worker")
def test_gpu_memory_arrives_whole(gpu_pairs: list[Pair], sizes: list[int], run: Run, evidence: Evidence) -> None:
    """Bytes in GPU memory arrive intact."""
    found = Findings()
    for pair in gpu_pairs:
        found.extend(each_size(pair, sizes, run.seed, evidence))
    found.judge()
