"""What ranks of several nodes do together, as tensor parallel engines over nodes do: right bytes, and how fast."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BringUpFailed, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.nodes import Node
from fixtures.fabric.collectives import Collected, narrowest

pytestmark = [pytest.mark.needs("multi_node", "torch"), pytest.mark.needs("managed", why="next_to")]

VALUES_CHECK = "M07-22"


@check(
    "M07-22",
    judged="each value that all-reduce, all-gather and all-to-all leave at each rank, against what all ranks gave: by "
    "NCCL on GPUs, else by gloo on processors; sizes take a quarter of the memory that is available at most",
    evidence="measurement, table of operations",
    by_hand="all_gather_perf -c 1 of nccl-tests under mpirun; gloo: torch.distributed of the runtime's Python",
)
def test_collectives_give_all_ranks_the_right_values(
    collectives: Collected, measure: Measure, evidence: Evidence
) -> None:
    """Collectives over all nodes leave the right values at each rank."""
    evidence.nodes(*dict.fromkeys(rank.node.name for rank in collectives.ranks))
    for name, log in collectives.logs.items():
        evidence.text(f"what {name} said", log)
    Findings(collectives.failed).judge()
    first = collectives.done[0]
    taken = f"torch {first.torch}, {collectives.backend} on {first.device}, {len(collectives.ranks)} ranks"
    evidence.note("by", f"{taken}; {first.memory_bytes / 1e9:.3g} GB of memory were available at the least")
    if first.left_out:
        evidence.note("left out", f"sizes that memory does not allow: {', '.join(map(str, first.left_out))} bytes")
    found = [(rank, row) for rank in collectives.ranks for row in collectives.done[rank.number].rows]
    rows = [[str(rank), row.kind, row.bytes, row.wrong] for rank, row in found]
    evidence.table("values", ["rank", "operation", "bytes", "wrong values"], rows)
    measured = measure("wrong_values", sum(row.wrong for _, row in found), n=len(found))
    if measured.judgement == "fail":
        Findings(collectives.wrong()).judge()
    measure.judge()


@check(
    "M07-23",
    judged="bus bandwidth, as nccl-tests count it, of the largest size of each operation: the slowest against what "
    "the RDMA ports and lanes of each node allow (NCCL) or its data interface says (gloo); with rdma declared NCCL "
    "must take it",
    evidence="measurements, table of operations",
    by_hand="all_gather_perf -b 1G -e 1G of nccl-tests under mpirun: busbw; NCCL_DEBUG=INFO names the network",
    causes=[67],
)
@pytest.mark.performance
def test_collectives_are_nearly_as_fast_as_their_link(
    collectives: Collected, torch_nodes: dict[str, Node], measure: Measure, evidence: Evidence
) -> None:
    """Collectives over all nodes are nearly as fast as the link between them."""
    if collectives.failed:
        raise BringUpFailed(VALUES_CHECK, *collectives.failed)
    evidence.nodes(*torch_nodes)
    if left_out := collectives.done[0].left_out:
        available = f"{collectives.done[0].memory_bytes / 1e9:.3g} GB of memory are available"
        raise CouldNotLook(f"{available}, too little for {max(left_out)} bytes, and smaller sizes do not fill the link")
    link = narrowest(list(torch_nodes.values()), collectives.backend)
    rows = collectives.rows()
    table = [[row.kind, row.bytes, row.times, row.seconds * 1e6, collectives.busbw(row)] for row in rows]
    evidence.table("operations", ["operation", "bytes", "times", "us", "GB/s (bus)"], table)
    evidence.note("the link", f"{link.source}: {link.bytes_per_s / 1e9:.3g} GB/s")
    largest = {row.kind: row for row in rows if row.bytes == max(each.bytes for each in rows if each.kind == row.kind)}
    speeds = {kind: collectives.busbw(row) for kind, row in largest.items()}
    judged = [
        measure("all_reduce_gb_s", speeds["all_reduce"], n=largest["all_reduce"].times),
        measure("all_gather_gb_s", speeds["all_gather"], n=largest["all_gather"].times),
        measure("all_to_all_gb_s", speeds["all_to_all"], n=largest["all_to_all"].times),
    ]
    share = min(speeds.values()) / (link.bytes_per_s / 1e9)
    if collectives.backend == "nccl":
        judged.append(measure("nccl_least_of_link", share, n=len(speeds)))
    else:
        judged.append(measure("gloo_least_of_link", share, n=len(speeds)))
    wrong = Findings()
    if any(each.judgement == "fail" for each in judged):
        kind = min(speeds, key=lambda kind: speeds[kind])
        wrong.add(
            f"slow collectives: {kind} of {largest[kind].bytes} bytes by {collectives.backend} carries "
            f"{speeds[kind]:.3g} GB/s, where the link has {link.bytes_per_s / 1e9:.3g} ({link.source})"
        )
    networks = collectives.networks()
    over_rdma = collectives.backend == "nccl" and all(
        "rdma" in node.spec.dynamo_capabilities for node in torch_nodes.values()
    )
    if over_rdma:
        for rank, network in networks.items():
            if not network.startswith("IB"):  # with NVIDIA's plugin it is IBext_v8 and the like
                wrong.add(f"NCCL took the network {network} at {rank}, and rdma is declared: set NCCL_IB_HCA")
    wrong.judge()
    measure.judge()
    if over_rdma and (silent := [str(rank) for rank in collectives.ranks if str(rank) not in networks]):
        raise CouldNotLook(f"NCCL's log does not say which network it took at {', '.join(silent)}")
