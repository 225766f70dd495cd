"""Transfers are as fast as what lies between the two ends allows."""

import statistics

import pytest

from fixtures.inventory.model import Inventory
from fixtures.kv_transfer.pair import COPIES, LONG_S, Pair, plain_copy, whole
from fixtures.measure.kv_transfer import Judged, Link, Transfers, judge_transfers, netdev_link, rdma_link
from fixtures.measure.measurement import Measurement
from fixtures.outcomes import CouldNotLook
from fixtures.probes.probe import carriers
from tests_by_module.module_11_kv_transfer.looking import data_interface

pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker")]
TIMES = 20
SMALL_BYTES, SMALL_TIMES = 4096, 200


def best(pair: Pair) -> dict[str, Transfers]:
    """The best of several transfers of the whole memory, by operation: what else the machine does slows all others."""
    found = {}
    for operation in ("WRITE", "READ"):
        took = pair.move(operation, whole(pair.size), times=TIMES, seconds=LONG_S)["took_s"]
        found[operation] = Transfers(pair.size, min(took), 1)
    return found


def told(judged: dict[str, Judged], evidence) -> None:
    evidence.note("Against what lies between", "\n".join(f"{name}: {each.sentence}" for name, each in judged.items()))


def slow(judged: dict[str, Judged], measured: list[Measurement]) -> str:
    """Sentences of those that are out of bounds."""
    bad = (name for name, each in zip(judged, measured, strict=True) if each.judgement == "fail")
    return "; ".join(f"{name}: {judged[name].sentence}" for name in bad)


@pytest.mark.check("M11-07")
@pytest.mark.performance
def test_transfers_on_one_node_are_not_far_below_a_plain_copy(kv_neighbours: Pair, evidence, measure) -> None:
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
    assert not (bad := slow(judged, over)), bad
    measure.judge()


@pytest.mark.check("M11-08")
@pytest.mark.needs("multi_node")
@pytest.mark.performance
def test_transfers_between_nodes_are_not_far_below_their_link(
    kv_apart: Pair, inventory: Inventory, evidence, measure
) -> None:
    evidence.nodes(kv_apart.near.node.name, kv_apart.far.node.name)
    plain = Link("netdev", kv_apart.tcp_bytes_per_s(kv_apart.size, TIMES), "one plain TCP stream, just before")
    measure("plain_tcp_gb_s", plain.bytes_per_s / 1e9, n=TIMES)
    said = said_speed(kv_apart)
    as_plain = judge_transfers(Transfers(kv_apart.size, kv_apart.size / plain.bytes_per_s, 1), said)
    moved = best(kv_apart)
    link = rdma_ports(kv_apart) if inventory.cluster.dynamo_kv_transport == "rdma" else plain
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
    assert not (bad := slow(judged, over_allowed)), bad
    measure.judge()


def said_speed(pair: Pair) -> Link:
    """What the interface of the near end's data address says of itself."""
    netdev = data_interface(pair.near)
    try:
        return netdev_link({netdev: str(carriers(pair.near.node)["netdevs"][netdev]["speed_mbps"])})
    except ValueError as error:
        raise CouldNotLook(f"{pair.near.node.name}: {error}") from error


def rdma_ports(pair: Pair) -> Link:
    """What the declared devices' ports say of themselves."""
    declared, found = pair.near.node.spec.dynamo_rdma_devices, carriers(pair.near.node)["rdma"]
    return rdma_link({name: port["rate"] for name, port in found.items() if name.split(":")[0] in declared})


@pytest.mark.check("M11-15")
@pytest.mark.performance
def test_a_small_transfer_takes_little_more_than_its_way(kv_pair: Pair, evidence, measure) -> None:
    evidence.nodes(kv_pair.near.node.name, kv_pair.far.node.name)
    for_all = {op: kv_pair.move(op, whole(SMALL_BYTES), times=SMALL_TIMES)["took_s"] for op in ("WRITE", "READ")}
    measure("write_4kib_ms_min", 1000 * min(for_all["WRITE"]), n=SMALL_TIMES)
    measure("read_4kib_ms_min", 1000 * min(for_all["READ"]), n=SMALL_TIMES)
    measure("write_4kib_ms_p50", 1000 * statistics.median(for_all["WRITE"]), n=SMALL_TIMES)
    measure("read_4kib_ms_p50", 1000 * statistics.median(for_all["READ"]), n=SMALL_TIMES)
    measure("write_4kib_ms_p95", 1000 * statistics.quantiles(for_all["WRITE"], n=20)[-1], n=SMALL_TIMES)
    measure("read_4kib_ms_p95", 1000 * statistics.quantiles(for_all["READ"], n=20)[-1], n=SMALL_TIMES)
    measure.judge()
