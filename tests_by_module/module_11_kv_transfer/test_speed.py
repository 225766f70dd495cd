"""Transfers are as fast as what lies between the two ends allows."""

import statistics

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.measurement import Measurement, out_of_bounds
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.probes.probe import carriers, data_interface
from fixtures.kv.floor import Judged, Link, Transfers, judge_transfers, netdev_link, rdma_link
from fixtures.kv.pair import COPIES, LONG_S, Pair, plain_copy, whole
from fixtures.kv.side import Side
from fixtures.run import Run
from tests_by_module.module_11_kv_transfer.ends import end
from tests_by_module.module_11_kv_transfer.transport_counters import counted

pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker")]
TIMES = 20
SMALL_BYTES, SMALL_TIMES = 4096, 200
STAGED = (
    "UCX stages what a GPU holds where GPUDirect RDMA is absent, as on DGX Sparks; "
    "`kv_buffer_device: cpu` in the runtime's file lets KV travel from host memory"
)


def best(pair: Pair) -> dict[str, Transfers]:
    """The best of several transfers of the whole memory, by operation: what else the machine does slows all others."""
    found = {}
    for operation in ("WRITE", "READ"):
        took = pair.done(operation, whole(pair.size), times=TIMES, seconds=LONG_S)["took_s"]
        found[operation] = Transfers(pair.size, min(took), 1)
    return found


def told(judged: dict[str, Judged], evidence: Evidence) -> None:
    evidence.note("Against what lies between", "\n".join(f"{name}: {each.sentence}" for name, each in judged.items()))


def slow(judged: dict[str, Judged], measured: list[Measurement], pair: Pair) -> Findings:
    """Finds those that are out of bounds, of transfers between the two ends of `pair`."""
    bad = [name for name, each in zip(judged, measured, strict=True) if each.judgement == "fail"]
    found = Findings(f"{name}: {judged[name].sentence}" for name in bad)
    if bad and pair.kind == "VRAM" and pair.near.node is not pair.far.node:
        found.add(f"the memory is the GPUs': {STAGED} (`M11-19` measures both)")
    return found


@check(
    "M11-07",
    judged="the best of 20 against the time allowed by `fixtures/kv/floor.yaml` for a plain copy's speed in the same "
    "run, from GPU to GPU where `dynamo_gpus` has several",
    evidence="measurements, sentences",
    by_hand='ask a \'{"do": "move", …}\': "took_s" in its answer',
)
@pytest.mark.performance
def test_transfers_on_one_node_are_not_far_below_a_plain_copy(
    kv_neighbours: Pair, evidence: Evidence, measure: Measure
) -> None:
    """Transfers on one node are nearly as fast as a plain copy."""
    evidence.nodes(kv_neighbours.near.node.name)
    near = kv_neighbours.near
    link = plain_copy(near.node, near.runtime, kv_neighbours.size, on_gpu=kv_neighbours.kind == "VRAM")
    moved = best(kv_neighbours)
    judged = {operation: judge_transfers(each, link) for operation, each in moved.items()}
    told(judged, evidence)
    measure("plain_copy_gb_s", link.bytes_per_s / 1e9, n=COPIES)
    measure("write_gb_s", moved["WRITE"].bytes / moved["WRITE"].seconds / 1e9, n=TIMES)
    measure("read_gb_s", moved["READ"].bytes / moved["READ"].seconds / 1e9, n=TIMES)
    over = [
        measure("write_time_over_allowed", judged["WRITE"].time_over_allowed),
        measure("read_time_over_allowed", judged["READ"].time_over_allowed),
    ]
    slow(judged, over, kv_neighbours).judge()
    measure.judge()


@check(
    "M11-08",
    judged="plain TCP against the interface's speed; NIXL against plain TCP of the same run, or, where rdma is "
    "declared, against the ports and PCIe lanes that carried the bytes",
    evidence="measurements, sentences",
    by_hand="the same with one end on each node, compared with iperf3 over the data link",
)
@pytest.mark.needs("multi_node")
@pytest.mark.performance
def test_transfers_between_nodes_are_not_far_below_their_link(
    kv_two_nodes: Pair, run: Run, inventory: Inventory, evidence: Evidence, measure: Measure
) -> None:
    """Transfers between nodes are nearly as fast as their link."""
    evidence.nodes(kv_two_nodes.near.node.name, kv_two_nodes.far.node.name)
    plain = Link("netdev", kv_two_nodes.tcp_bytes_per_s(kv_two_nodes.size, TIMES), "one plain TCP stream, just before")
    measure("plain_tcp_gb_s", plain.bytes_per_s / 1e9, n=TIMES)
    said = said_speed(kv_two_nodes.near)
    as_plain = judge_transfers(Transfers(kv_two_nodes.size, kv_two_nodes.size / plain.bytes_per_s, 1), said)
    moved, (carried, *_) = counted(run, kv_two_nodes, lambda: best(kv_two_nodes))
    link = said_rates(kv_two_nodes.near, carried.rdma) if inventory.cluster.dynamo_kv_transport == "rdma" else plain
    judged = {operation: judge_transfers(each, link) for operation, each in moved.items()}
    judged["plain TCP"] = as_plain
    told(judged, evidence)
    measure("write_gb_s", moved["WRITE"].bytes / moved["WRITE"].seconds / 1e9, n=TIMES)
    measure("read_gb_s", moved["READ"].bytes / moved["READ"].seconds / 1e9, n=TIMES)
    over_allowed = [
        measure("write_time_over_allowed", judged["WRITE"].time_over_allowed),
        measure("read_time_over_allowed", judged["READ"].time_over_allowed),
        measure("plain_tcp_time_over_allowed", as_plain.time_over_allowed),
    ]
    slow(judged, over_allowed, kv_two_nodes).judge()
    measure.judge()


def said_speed(side: Side) -> Link:
    """What the interface of its data address says of itself."""
    netdev = data_interface(side.node)
    try:
        return netdev_link(netdev, carriers(side.node)["netdevs"][netdev])
    except ValueError as error:
        raise CouldNotLook(f"{side.node.name}: {error}") from error


def said_rates(side: Side, carried: dict[str, float]) -> Link:
    """What the ports and lanes of the declared devices say of themselves, where these carried so many bytes each."""
    try:
        return rdma_link(carriers(side.node)["rdma"], side.node.spec.rdma_ports, carried)
    except ValueError as error:
        raise CouldNotLook(f"{side.node.name}: {error}") from error


@check(
    "M11-18",
    judged="UCX is given one declared device of each node at a time (over tcp the data interface): against its "
    "port's rate or its PCIe lanes, whichever is less; the slowest is named",
    evidence="measurement, sentences",
    by_hand="UCX_NET_DEVICES=DEVICE:1, one after the other; current_link_speed and _width",
)
@pytest.mark.needs("multi_node", "kv_transport")
@pytest.mark.performance
def test_each_kv_device_alone_is_as_fast_as_its_port_and_lanes(
    kv_two_nodes: Pair, run: Run, inventory: Inventory, evidence: Evidence, measure: Measure
) -> None:
    """Each KV device alone is as fast as its port and PCIe lanes allow: a degraded one would hide among others."""
    evidence.nodes(kv_two_nodes.near.node.name, kv_two_nodes.far.node.name)
    judged: dict[str, Judged] = {}
    rdma = inventory.cluster.dynamo_kv_transport == "rdma"
    sides = (kv_two_nodes.near, kv_two_nodes.far)
    devices = [side.node.spec.rdma_ports if rdma else (data_interface(side.node),) for side in sides]
    for number, (here, there) in enumerate(zip(*devices, strict=True), 1):
        near, far = (end(run, f"kv-device-{number}-{n}", side.node.name) for n, side in enumerate(sides, 1))
        near.env["UCX_NET_DEVICES"], far.env["UCX_NET_DEVICES"] = here, there
        with near, far:
            pair = Pair(near, far, kv_two_nodes.size, kind=kv_two_nodes.kind)
            pair.connect()
            link = said_rates(near, {here: 1}) if rdma else said_speed(near)
            for operation, moved in best(pair).items():
                judged[f"{near.node.name} {here}, {far.node.name} {there}, {operation}"] = judge_transfers(moved, link)
    told(judged, evidence)
    slowest = max(judged, key=lambda name: judged[name].time_over_allowed)
    measured = measure("slowest_device_time_over_allowed", judged[slowest].time_over_allowed, n=len(judged))
    slow({slowest: judged[slowest]}, [measured], kv_two_nodes).judge()
    measure.judge()


@check(
    "M11-19",
    judged="READ and WRITE between two nodes over all devices that UCX is given, the slower of the two: host memory, "
    "and where both nodes declare `gpu` their memory, each against its floor, and one against the other",
    evidence="measurements, sentences",
    by_hand="the same with memory of the kind DRAM, then VRAM",
)
@pytest.mark.needs("multi_node", "kv_transport")
@pytest.mark.performance
def test_host_and_gpu_memory_each_reach_their_floor(
    two_nodes: Pair, inventory: Inventory, request: pytest.FixtureRequest, evidence: Evidence, measure: Measure
) -> None:
    """Host memory and GPU memory each travel between nodes as fast as their floors ask."""
    nodes = [side.node.name for side in (two_nodes.near, two_nodes.far)]
    evidence.nodes(*nodes)

    by_host = gbit_per_s(two_nodes)
    host = min(by_host.values())
    of_host = measure("host_memory_gbit_per_s", host, n=TIMES)
    found = Findings(f"{way}: {of_host.of_one(rate)}" for way, rate in out_of_bounds(of_host, by_host).items())
    if without := [name for name in nodes if "gpu" not in inventory.node(name).dynamo_capabilities]:
        evidence.note("GPU memory was not measured", f"{', '.join(without)}: no gpu is declared")
    else:
        by_gpus = gbit_per_s(request.getfixturevalue("gpu_two_nodes"))
        gpu = min(by_gpus.values())
        of_gpu = measure("gpu_memory_gbit_per_s", gpu, n=TIMES)
        of_gpus = [of_gpu, measure("gpu_of_host_memory", gpu / host)]
        found.extend(f"{way}: {of_gpu.of_one(rate)}" for way, rate in out_of_bounds(of_gpu, by_gpus).items())
        told = f"GPU memory travels at {gpu:.1f} Gb/s, host memory at {host:.1f}. {STAGED}"
        evidence.note("Where KV should be", told)
        gpus_alone = of_host.judgement != "fail" and any(each.judgement == "fail" for each in of_gpus)
        found.extend([told] if gpus_alone else [])
    found.judge()
    measure.judge()


def gbit_per_s(pair: Pair) -> dict[str, float]:
    """The best of each operation, by the way that its bytes take."""
    near, far = pair.near.node.name, pair.far.node.name
    ways = {"WRITE": f"WRITE from {near} to {far}", "READ": f"READ from {far} to {near}"}
    return {ways[operation]: 8 * moved.bytes / moved.seconds / 1e9 for operation, moved in best(pair).items()}


@check(
    "M11-15",
    judged="200 of 4 KiB each way, the quickest and the median against the set-up time of `fixtures/kv/floor.yaml`; "
    "the median is recorded where two ends share two processors",
    evidence="measurements",
    by_hand='ask a \'{"do": "move", …, "blocks": [[0, 0, 4096]]}\' 200 times',
)
@pytest.mark.performance
def test_small_transfer_adds_little_to_the_round_trip(kv_pair: Pair, evidence: Evidence, measure: Measure) -> None:
    """A small transfer adds little to the round trip of its path."""
    evidence.nodes(kv_pair.near.node.name, kv_pair.far.node.name)
    for_all = {op: kv_pair.done(op, whole(SMALL_BYTES), times=SMALL_TIMES)["took_s"] for op in ("WRITE", "READ")}
    measure("write_4kib_ms_min", 1000 * min(for_all["WRITE"]), n=SMALL_TIMES)
    measure("read_4kib_ms_min", 1000 * min(for_all["READ"]), n=SMALL_TIMES)
    measure("write_4kib_ms_p50", 1000 * statistics.median(for_all["WRITE"]), n=SMALL_TIMES)
    measure("read_4kib_ms_p50", 1000 * statistics.median(for_all["READ"]), n=SMALL_TIMES)
    measure("write_4kib_ms_p95", 1000 * statistics.quantiles(for_all["WRITE"], n=20)[-1], n=SMALL_TIMES)
    measure("read_4kib_ms_p95", 1000 * statistics.quantiles(for_all["READ"], n=20)[-1], n=SMALL_TIMES)
    measure.judge()
