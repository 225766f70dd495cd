"""KV goes by the transport that is declared, over the link that is declared: by bytes counted and by UCX's own word."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.probes.probe import carriers, data_interface
from fixtures.kv.counters import loaded
from fixtures.kv.pair import Operation, Pair
from fixtures.kv.ucx_log import parse
from fixtures.kv.witness import CARRIED, NOT_CARRIED, witness
from fixtures.run import Run
from tests_by_module.module_11_kv_transfer.transport_counters import counted, move

UCX_OPERATION = {"READ": "get", "WRITE": "put"}
SHOWN = 0.01
NO_ROUTE = (
    "UCX leaves a rail out where it finds no route to its other end: with UCX_LOG_LEVEL=debug its log says "
    "'cannot reach', with the interface that it asked. With UCX_IB_ROCE_REACHABILITY_MODE=all in the workers' "
    "environment it asks for none."
)
pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker"), pytest.mark.needs("kv_transport")]


@check(
    "M11-09",
    judged="the transport witness, READ and WRITE by themselves: what interfaces, RDMA ports and shared memory "
    "counted, and UCX's own words, against `dynamo_kv_transport`",
    evidence="the verdict, UCX's logs",
    by_hand="UCX_PROTO_INFO=y UCX_LOG_LEVEL=info in the workers' environment; their logs",
)
@pytest.mark.parametrize("operation", ["WRITE", "READ"])
def test_kv_goes_by_the_declared_transport(
    operation: Operation, kv_pair: Pair, run: Run, inventory: Inventory, evidence: Evidence
) -> None:
    """KV takes the declared transport."""
    evidence.nodes(kv_pair.near.node.name, kv_pair.far.node.name)
    (asked, told), carried = counted(run, kv_pair, lambda: move(kv_pair, operation))
    ends = (kv_pair.near, kv_pair.far)
    seen = witness(
        expected_bytes=asked,
        counted_bytes=told,
        carried=carried,
        ucx=[parse(side.log()) for side in ends],
        loaded=[each for side in ends for each in loaded(carriers(side.node, [side.about["pid"]])["processes"])],
        memory=kv_pair.memory,
        operation=UCX_OPERATION[operation],
    )
    evidence.note("Which way KV went", "\n".join(seen.sentences))
    for side in ends:
        evidence.text(f"UCX in {side.name}", side.log())
    wrong = seen.against(inventory.cluster.dynamo_kv_transport or "")
    Findings(wrong).judge()


@check(
    "M11-10",
    judged="0.9 of the bytes on the interface of the data address (or the declared RDMA devices), 0.2 at most "
    "elsewhere; of RDMA devices, the share of the one that carries least is recorded",
    evidence="table by device, measurement, a note where a rail carries none",
    by_hand='cat /proc/net/dev before and after ask a \'{"do": "move", …}\'',
)
@pytest.mark.needs("multi_node")
@pytest.mark.parametrize("operation", ["WRITE", "READ"])
def test_kv_goes_over_the_data_link(
    operation: Operation, kv_two_nodes: Pair, run: Run, inventory: Inventory, measure: Measure, evidence: Evidence
) -> None:
    """KV takes the data link."""
    evidence.nodes(kv_two_nodes.near.node.name, kv_two_nodes.far.node.name)
    (asked, _), kv = counted(run, kv_two_nodes, lambda: move(kv_two_nodes, operation))
    rdma = inventory.cluster.dynamo_kv_transport == "rdma"
    found, rows, of_rails = Findings(), [], dict[str, float]()
    for counts, side in zip(kv, (kv_two_nodes.near, kv_two_nodes.far), strict=True):
        meant = set(side.node.spec.dynamo_rdma_devices) if rdma else {data_interface(side.node)}
        taken = counts.rdma if rdma else counts.netdevs
        shares = {name: count / asked for name, count in taken.items()}
        rows += [(counts.node, name, name.split(":")[0] in meant, f"{share:.3f}") for name, share in shares.items()]
        of_rails |= {f"{name} of {counts.node}": shares.get(name, 0.0) for name in side.node.spec.rdma_ports if rdma}
        on_link = sum(share for name, share in shares.items() if name.split(":")[0] in meant)
        if on_link < CARRIED or sum(shares.values()) - on_link > NOT_CARRIED:
            told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= SHOWN) or "nothing"
            found.add(f"the data link is {', '.join(sorted(meant))}, KV went over {told}", node=counts.node)
    evidence.table("Share of the KV by device", ("node", "device", "data link", "share"), rows)
    if rdma:
        measure("least_rail_of_kv_bytes", min(of_rails.values(), default=None), n=len(of_rails))
    if unused := [rail for rail, share in of_rails.items() if share < SHOWN]:
        evidence.note("Rails without KV", f"{', '.join(unused)} carried none of it. {NO_ROUTE}")
    found.judge()
