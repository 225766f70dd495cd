"""What ranks of several nodes do together, as tensor parallel engines over nodes do: right bytes, and how fast."""

from collections.abc import Sequence

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BringUpFailed, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import folded
from fixtures.cluster.nodes import Node
from fixtures.fabric.bisection import Bisected, Bisecting
from fixtures.fabric.collectives import Collected, links_of, narrowest
from fixtures.fabric.rates import common_of_pairs
from fixtures.kv.floor import Link

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
    collectives: Collected, bisecting: Bisecting, measure: Measure, evidence: Evidence
) -> None:
    """Collectives over all nodes leave the right values at each rank."""
    evidence.nodes(*dict.fromkeys(rank.node.name for rank in collectives.ranks))
    for name, log in collectives.logs.items():
        evidence.text(f"what {name} said", log)
    if collectives.failed:
        parts = bisecting(lambda names, found: bool(found.failed))
        Findings([*collectives.failed, *_narrowed(parts, evidence)]).judge()
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
        parts = bisecting(lambda names, found: bool(found.failed or found.wrong()))
        Findings([*collectives.wrong(), *_narrowed(parts, evidence)]).judge()
    measure.judge()


def figures_of(found: Collected, link: Link) -> dict[str, float]:
    """The speed of each operation at its largest size, and the slowest against the link, by the names of the bounds."""
    speeds = {f"{row.kind}_gb_s": found.busbw(row) for row in found.largest()}
    return {**speeds, f"{found.backend}_least_of_link": min(speeds.values()) / (link.bytes_per_s / 1e9)}


def _narrowed(found: Bisected, evidence: Evidence) -> list[str]:
    """Sentences on which of more than two nodes fail in smaller parts, too, and what these have in common."""
    if found.parts:
        rows = [[folded(part), "fails" if bad else "sound"] for part, bad in found.parts.items()]
        evidence.table("parts", ["nodes", "by themselves"], rows)
    said = [
        f"{folded(part)} fail together, and each half of them is sound: look at what all of them use, as a switch"
        for part in found.whole
    ]
    if found.left and not found.pairs:
        nodes = folded(found.left)
        return [
            *said,
            f"parts of two or three nodes fail as well, in all of {nodes}: look at what these have in common",
        ]
    if not found.pairs:
        return said
    bad = [pair for pair, fails in found.pairs.items() if fails]
    if not bad:
        nodes = f"of {folded(found.left)}, which fail together, " if found.parts else ""
        return [*said, f"{nodes}each two nodes by themselves are sound: look at what all together use, as a switch"]
    pairs = f"by themselves {', '.join(' and '.join(pair) for pair in bad)} fail as well, of {len(found.pairs)} pairs"
    shared = common_of_pairs(bad, found.pairs)
    return [*said, f"{pairs}; {shared}" if shared else pairs]


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
    collectives: Collected, torch_nodes: dict[str, Node], bisecting: Bisecting, measure: Measure, evidence: Evidence
) -> None:
    """Collectives over all nodes are nearly as fast as the link between them."""
    if collectives.failed:
        raise BringUpFailed(VALUES_CHECK, *collectives.failed)
    evidence.nodes(*torch_nodes)
    if left_out := collectives.done[0].left_out:
        available = f"{collectives.done[0].memory_bytes / 1e9:.3g} GB of memory are available"
        raise CouldNotLook(f"{available}, too little for {max(left_out)} bytes, and smaller sizes do not fill the link")
    links = links_of(list(torch_nodes.values()), collectives.backend)
    link = narrowest(links.values())
    rows = collectives.rows()
    table = [[row.kind, row.bytes, row.times, row.seconds * 1e6, collectives.busbw(row)] for row in rows]
    evidence.table("operations", ["operation", "bytes", "times", "us", "GB/s (bus)"], table)
    evidence.note("the link", f"{link.source}: {link.bytes_per_s / 1e9:.3g} GB/s")
    figures, n = figures_of(collectives, link), min(row.times for row in rows)
    judged = [
        measure("all_reduce_gb_s", figures["all_reduce_gb_s"], n=n),
        measure("all_gather_gb_s", figures["all_gather_gb_s"], n=n),
        measure("all_to_all_gb_s", figures["all_to_all_gb_s"], n=n),
    ]
    if collectives.backend == "nccl":
        judged.append(measure("nccl_least_of_link", figures["nccl_least_of_link"], n=len(collectives.largest())))
    else:
        judged.append(measure("gloo_least_of_link", figures["gloo_least_of_link"], n=len(collectives.largest())))
    wrong = Findings()
    if failed := [each for each in judged if each.judgement == "fail"]:
        slowest = min(collectives.largest(), key=collectives.busbw)
        wrong.add(
            f"slow collectives: {slowest.kind} of {slowest.bytes} bytes by {collectives.backend} carries "
            f"{collectives.busbw(slowest):.3g} GB/s, where the link has {link.bytes_per_s / 1e9:.3g} ({link.source})"
        )
        bounds = {each.name: each.threshold.min or 0.0 for each in failed if each.threshold}

        def slow(names: Sequence[str], found: Collected) -> bool:
            if found.failed:
                return True
            carried = figures_of(found, narrowest(links[name] for name in names))
            return any(carried[name] < least for name, least in bounds.items())

        wrong.extend(_narrowed(bisecting(slow), evidence))
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
