"""What the links carry: measured by perftest, each device alone, both directions at once, and all devices at once."""

import time
from collections.abc import Mapping

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BringUpFailed, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.measurement import out_of_bounds
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import interface_of
from fixtures.fabric.counters import NEEDED, WORDS, Grown, Kind, of_receivers, silent_cables
from fixtures.fabric.load import Load, Test
from fixtures.fabric.perftest import Refused, Tool
from fixtures.fabric.ports import HcaPort, Seen
from fixtures.fabric.rates import Way, common, of_the_best, of_way_back, sentence, slow_at_once, slow_ways
from fixtures.on_nodes.fabric import TOOLS
from tests_by_module.module_07_rdma_fabric.carried import (
    Alone,
    BothWays,
    Carried,
    OfSizes,
    Spent,
    Together,
    capacity,
    turns,
)

pytestmark = [
    pytest.mark.needs("rdma", "multi_node"),
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.performance,
]

Rails = list[tuple[HcaPort, HcaPort]]
# the check that owns the writes over all rails at once
ALL_RAILS_CHECK = "M07-17"
BULK = 65536  # from this size on a message is long enough to fill a link
LATENCY_BYTES, LATENCY_TIMES = 8, 500
ROWS = ["from", "to", "Gb/s"]


@check(
    "M07-14",
    judged="ib_write_bw of 64 KiB each way over each rail alone: against what port and PCIe lanes allow, the way back "
    "and the best rail; 8 to 25 Gb/s on a healthy link of 200 is named as a degraded adapter",
    evidence="measurements, table of ways",
    by_hand="ib_write_bw -d DEVICE -x GID --report_gbits on one node; the same with ADDRESS on the other",
    causes=[67],
)
def test_each_rail_alone_carries_what_it_should(alone: Alone, rails: Rails, measure: Measure, evidence: Evidence):
    """Each rail carries in each direction, alone, what its ports and PCIe lanes allow."""
    rates = alone.against_capacity()
    rows = [[str(each.way.source), str(each.way.target), each.gbit_per_s, each.capacity_gbit_per_s] for each in rates]
    rows += [[str(way.source), str(way.target), str(why), ""] for way, why in alone.refused.items()]
    evidence.table("each rail alone", [*ROWS, "ports and lanes allow"], rows)
    shares = {each.way: each.of_capacity or 0.0 for each in rates}
    back, best = of_way_back(rates), of_the_best(rates)
    judged = [
        (measure("slowest_gbit_per_s", _least(alone.rates), n=len(rates)), alone.rates),
        (measure("least_of_capacity", _least(shares), n=len(shares)), shares),
        (measure("least_of_way_back", _least(back), n=len(back)), back),
        (measure("least_of_best_rail", _least(best), n=len(best)), best),
    ]
    slow = {way for measured, values in judged for way in out_of_bounds(measured, values)}
    wrong, top = Findings(map(str, alone.refused.values())), max(alone.rates.values(), default=0.0)
    wrong.extend(sentence(each, top, clean=alone.clean) for each in rates if each.way in slow)
    every = [way for one, other in rails for way in (Way(one, other), Way(other, one))]
    if shared := common(slow | alone.refused.keys(), every):
        wrong.add(shared)
    wrong.judge()
    measure.judge()


def _least(values: Mapping[Way, float]) -> float | None:
    """None where nothing was measured."""
    return min(values.values(), default=None)


def _most(values: Mapping[Way, float]) -> float | None:
    return max(values.values(), default=None)


@check(
    "M07-15",
    judged="ib_read_bw and ib_send_bw of 64 KiB each way over each rail alone, against ib_write_bw on that way",
    evidence="measurements, table of ways",
    by_hand="ib_read_bw and ib_send_bw as ib_write_bw",
)
def test_reads_and_sends_keep_up_with_writes(
    by_others: dict[Tool, Alone], sound: Alone, measure: Measure, evidence: Evidence
):
    """Reads and sends carry about as much as writes, on each way."""
    rates = [(tool, way, rate) for tool, of in by_others.items() for way, rate in of.rates.items()]
    rows = [[tool, str(way.source), str(way.target), rate, rate / sound.rates[way]] for tool, way, rate in rates]
    evidence.table("reads and sends", ["tool", *ROWS, "of writes"], rows)
    reads, sends = (
        {way: rate / sound.rates[way] for way, rate in by_others[tool].rates.items()}
        for tool in ("ib_read_bw", "ib_send_bw")
    )
    judged = [
        (measure("least_read_of_write", _least(reads), n=len(reads)), reads),
        (measure("least_send_of_write", _least(sends), n=len(sends)), sends),
    ]
    refused = [each for of in by_others.values() for each in of.refused.items()]
    wrong = Findings(str(why) for _, why in refused)
    wrong.extend(slow_ways(judged, [way for way, _ in refused]))
    wrong.judge()
    measure.judge()


@check(
    "M07-16",
    judged="ib_write_bw -b over each rail: both directions at once, added up, against the sum of each alone",
    evidence="measurement, table of ways",
    by_hand="ib_write_bw -b -d DEVICE -x GID --report_gbits",
)
def test_both_directions_at_once_do_not_slow_each_other(
    in_both: BothWays, sound: Alone, measure: Measure, evidence: Evidence
):
    """A rail carries both directions at once nearly as fast as each alone."""
    shares = {way: rate / (sound.rates[way] + sound.rates[way.back]) for way, rate in in_both.rates.items()}
    rows = [[str(way.source), str(way.target), rate, shares[way]] for way, rate in in_both.rates.items()]
    evidence.table("both directions at once", ["one end", "the other", "Gb/s, both added", "of alone"], rows)
    least = measure("least_of_alone", _least(shares), n=len(shares))
    slow = out_of_bounds(least, shares)
    wrong = Findings(map(str, in_both.refused.values()))
    wrong.extend(f"{way} and back: {least.of_one(share)}" for way, share in slow.items())
    failed, every = (
        {*ways, *(way.back for way in ways)} for ways in ({*slow, *in_both.refused}, {*shares, *in_both.refused})
    )
    if shared := common(failed, every):
        wrong.add(shared)
    wrong.judge()
    measure.judge()


@check(
    "M07-17",
    judged="ib_write_bw over all rails of two nodes at once, one direction after the other: the sum, and against what "
    "ports and PCIe lanes allow together, where devices of one cable count once; then both directions, against "
    "the sums",
    evidence="measurements, table of ways",
    by_hand="one ib_write_bw for each device at once, and the sum of their averages",
    causes=[67],
)
def test_all_rails_at_once_add_up(at_once: Together, measure: Measure, evidence: Evidence):
    """All rails of two nodes at once carry, in each direction, what they should together."""
    for what, by_ends in (("all rails at once", at_once.rates), ("all rails at once, both directions", at_once.both)):
        ways = [each for rates in by_ends.values() for each in rates.items()]
        evidence.table(what, ROWS, [[str(way.source), str(way.target), rate] for way, rate in ways])
    Findings(map(str, at_once.refused.values())).judge()
    sums = {ends: sum(rates.values()) for ends, rates in at_once.rates.items()}
    shares = {}
    for ends, rates in at_once.rates.items():
        if not (allowed := capacity(list(rates), rates)):
            raise CouldNotLook(f"{ends[0]} to {ends[1]}: the ports say no rate")
        shares[ends] = sums[ends] / allowed
    both = {(one, other): sum(rates.values()) for (one, other), rates in at_once.both.items()}
    of_each = {(one, other): rate / (sums[one, other] + sums[other, one]) for (one, other), rate in both.items()}
    measure("least_both_ways_gbit_per_s", min(both.values()), n=len(both))
    of_both = measure("least_both_ways_of_each", min(of_each.values()), n=len(of_each))
    of_sums = measure("least_sum_gbit_per_s", min(sums.values()), n=len(sums))
    of_capacity = measure("least_sum_of_capacity", min(shares.values()), n=len(shares))
    wrong = Findings(slow_at_once([(of_sums, sums), (of_capacity, shares)], at_once.rates))
    wrong.extend(slow_at_once([(of_both, of_each)], at_once.both, " and "))
    wrong.judge()
    measure.judge()


@check(
    "M07-24",
    judged="ib_read_bw over all rails of two nodes at once, one direction after the other, then both: the sums, "
    "against those of ib_write_bw of M07-17",
    evidence="measurements, table of ways",
    by_hand="one ib_read_bw for each device at once, and the sum of their averages",
)
def test_reads_over_all_rails_at_once_keep_up_with_writes(
    reads_at_once: Together, at_once: Together, measure: Measure, evidence: Evidence
):
    """Reads over all rails at once, which is how KV is fetched, carry about as much as writes."""
    reads, of_both = reads_at_once.rates, reads_at_once.both
    ways = [each for by_ends in (reads, of_both) for rates in by_ends.values() for each in rates.items()]
    evidence.table("reads", ROWS, [[str(way.source), str(way.target), rate] for way, rate in ways])
    Findings(map(str, reads_at_once.refused.values())).judge()
    if at_once.refused:
        raise BringUpFailed(ALL_RAILS_CHECK, *map(str, at_once.refused.values()))
    measure("least_sum_gbit_per_s", min(sum(rates.values()) for rates in reads.values()), n=len(reads))
    shares, in_both = (
        {ends: sum(rates.values()) / sum(writes[ends].values()) for ends, rates in by_ends.items()}
        for by_ends, writes in ((reads, at_once.rates), (of_both, at_once.both))
    )
    least = measure("least_of_writes", min(shares.values()), n=len(shares))
    least_both = measure("least_both_ways_of_writes", min(in_both.values()), n=len(in_both))
    wrong = Findings(slow_at_once([(least, shares)], reads))
    wrong.extend(slow_at_once([(least_both, in_both)], of_both, " and "))
    wrong.judge()
    measure.judge()


@check(
    "M07-18",
    judged="ib_write_bw -a each way over each rail: a row for each of 23 sizes from 2 bytes to 8 MiB; those from 64 "
    "KiB on against the best",
    evidence="measurement, table of sizes",
    by_hand="ib_write_bw -a -d DEVICE -x GID --report_gbits",
)
def test_messages_of_all_sizes_are_carried(by_size: OfSizes, measure: Measure, evidence: Evidence):
    """Messages of all sizes are carried, and none of the large ones is slow."""
    by_way = by_size.by_way.items()
    rows = [[str(way.source), str(way.target), row.gbit_per_s, row.size] for way, found in by_way for row in found]
    evidence.table("by size", [*ROWS, "bytes"], rows)
    large = {way: [row.gbit_per_s for row in found if row.size >= BULK] for way, found in by_way}
    shares = {way: min(rates) / max(rates) for way, rates in large.items()}
    least = measure("least_large_of_best", _least(shares), n=len(shares))
    wrong = Findings(map(str, by_size.refused.values()))
    wrong.extend(slow_ways([(least, shares)], by_size.refused))
    wrong.judge()
    measure.judge()


@check(
    "M07-19",
    judged="500 of 8 bytes by ib_write_lat, ib_read_lat and ib_send_lat each way over each rail: the typical time and "
    "the least",
    evidence="measurements, table of latencies",
    by_hand="ib_write_lat -s 8 -d DEVICE -x GID on one node; the same with ADDRESS on the other",
)
def test_small_messages_arrive_soon(
    load: Load, ports: dict[str, list[HcaPort]], sound: Alone, measure: Measure, evidence: Evidence
):
    """Small messages arrive as soon as on a sound link."""
    tools: tuple[Tool, ...] = ("ib_write_lat", "ib_read_lat", "ib_send_lat")
    wrong, rows, refused = Findings(), [], set[Way]()
    typical: dict[str, dict[Way, float]] = {tool: {} for tool in tools}
    least: dict[Way, float] = {}
    for tool in tools:
        for ways in turns(ports):
            for result in load.run([Test(tool, way, LATENCY_TIMES, (LATENCY_BYTES,)) for way in ways]):
                way = result.test.way
                try:
                    found = result.latency()
                except Refused as why:
                    wrong.add(str(why))
                    refused.add(way)
                    continue
                typical[tool][way] = found.typical_us
                least[way] = max(found.least_us, least.get(way, 0.0))
                rows.append([tool, str(way.source), str(way.target), found.least_us, found.typical_us, found.p99_us])
    took = f"{load.perftest_s:.1f} s of its clients so far, {load.spent_s:.1f} s with what the suite adds"
    evidence.note("perftest took", took)
    measure("spent_over_perftest", load.spent_s / load.perftest_s)
    evidence.table("latencies", ["tool", "from", "to", "least us", "typical us", "99 % us"], rows)
    writes, reads, sends = (typical[tool] for tool in tools)
    judged = [
        (measure("largest_least_us", _most(least), n=LATENCY_TIMES), least),
        (measure("write_typical_us", _most(writes), n=LATENCY_TIMES), writes),
        (measure("read_typical_us", _most(reads), n=LATENCY_TIMES), reads),
        (measure("send_typical_us", _most(sends), n=LATENCY_TIMES), sends),
    ]
    wrong.extend(slow_ways(judged, refused))
    wrong.judge()
    measure.judge()


@check(
    "M07-20",
    judged="how much the ports' counters of errors, losses and packets sent again grew during the loads of M07-14 to "
    "M07-18 and M07-24: each adapter needs a known counter of each of these kinds (a soft device, which has none of "
    "losses, of one); what a late receiver causes (out_of_buffer, rnr_nak_retry_err) not during ib_send_bw; pauses are "
    "recorded",
    evidence="measurements, table of counters",
    by_hand="on each node, before and after a load: rdma statistic; ethtool -S INTERFACE",
    causes=[71],
)
def test_counters_stay_clean_under_load(
    load: Load, loads: list[Carried], ports: dict[str, list[HcaPort]], measure: Measure, evidence: Evidence
):
    """Under load no port counts errors or losses, and few packets are sent again."""
    kinds: tuple[Kind, ...] = ("errors", "lost", "sent_again", "paused")
    grew = [
        (kind, each.node, port, counter, during.during, n)
        for kind in kinds
        for during in loads
        for each in during.grown
        for (port, counter), n in each.of_kind(kind).items()
        if during.tool != "ib_send_bw" or counter not in of_receivers()
    ]
    evidence.note("reading the counters took", f"{load.counted_s:.2f} s so far, of all nodes at once")
    evidence.table("counters that grew", ["kind", "node", "port", "counter", "during", "by"], grew)
    uncounted = {port: each.uncounted(port) for each in loads[0].grown for port in ports[each.node]}
    without = {
        port: f"{port} has no known counter of {', '.join(WORDS[kind] for kind in absent)}"
        for port, absent in uncounted.items()
        if absent
    }
    evidence.note("not counted", "\n".join(without.values()) or "nothing: each port counts all kinds")
    sums = {kind: sum(n for of, *_, n in grew if of == kind) for kind in kinds}
    carried_gb = sum(n for during in loads for n in during.sent_bytes.values()) / 1e9
    counted = {kind for kind in NEEDED if sums[kind] or any(kind not in absent for absent in uncounted.values())}
    measured = []
    if "errors" in counted:
        measured.append(measure("errors", sums["errors"]))
    if "lost" in counted:
        measured.append(measure("lost_packets", sums["lost"]))
    if "sent_again" in counted:
        again = sums["sent_again"] / carried_gb if carried_gb else sums["sent_again"]
        measured.append(measure("sent_again_per_gb", again))
    measure("pauses", sums["paused"])
    if any(each.judgement == "fail" for each in measured):
        Findings(
            f"{counter} of {port} of {node} grew by {n} ({during})"
            for kind, node, port, counter, during, n in grew
            if kind != "paused"
        ).judge("the link is not well")
    measure.judge()
    Findings(each for grown in loads[0].grown for each in silent_cables(grown, ports[grown.node])).judge()
    # a soft device counts no losses, and has no cable to lose them on
    if unknown := [why for port, why in without.items() if not port.device.soft or len(uncounted[port]) == len(NEEDED)]:
        raise CouldNotLook("\n".join(unknown))


@check(
    "M07-21",
    judged="bytes on interfaces that are not those of the rails, and on the rails' own, during the loads of M07-14 to "
    "M07-18 and M07-24, against the bytes that perftest carried",
    evidence="measurements, table of interfaces",
    by_hand="cat /proc/net/dev; cat /sys/class/infiniband/*/ports/1/counters/port_xmit_data (units of 4 bytes)",
    causes=[79],
)
def test_bytes_take_the_rails_and_no_other_interface(
    load: Load,
    sound: Alone,
    loads: list[Carried],
    ports: dict[str, list[HcaPort]],
    seen: dict[str, Seen],
    spent: Spent,
    fabric_nodes: dict[str, Node],
    measure: Measure,
    evidence: Evidence,
):
    """All bytes take the rails: their ports count them, and no other interface does."""
    rows, elsewhere, counted, wrong = [], [], [], Findings()
    sent = [each for during in loads for each in during.sent_bytes.items()]
    for node in ports:
        looks = [grown for during in loads for grown in during.grown if grown.node == node]
        asked = sum(n for way, n in sent if node in (way.source.node, way.target.node)) / 2
        spec = fabric_nodes[node].spec
        addresses = {name: {"addresses": [a.address for a in i.addresses]} for name, i in seen[node].interfaces.items()}
        managed = spec.dynamo_management_address and interface_of(spec.dynamo_management_address, addresses)
        own = {port.port.netdev for port in ports[node]} - {managed}
        for name in seen[node].interfaces:
            share = sum(grown.bytes_of(name) for grown in looks) / asked
            rows.append(
                [node, name, "rail" if name in own else "management" if name == managed else "", f"{share:.4f}"]
            )
            if name not in own and name != "lo":
                elsewhere.append(share)
        for port in ports[node]:
            mine = sum(n for way, n in sent if port in (way.source, way.target)) / 2
            counted.append(sum(_counted_by(port, grown) for grown in looks) / mine)
            rows.append([node, port.name, "port", f"{counted[-1]:.4f}"])
    evidence.table("share of the bytes", ["node", "interface or port", "is", "share"], rows)
    least = measure("least_counted_percent", 100 * min(counted), n=len(counted))
    most = measure("most_elsewhere_percent", 100 * max(elsewhere, default=0.0), n=len(elsewhere))
    if "fail" in (least.judgement, most.judgement):
        shares = ", ".join(
            f"{what} {name} of {node} {share}" for node, name, what, share in rows if float(share) > 0.01
        )
        wrong.add(f"the bytes did not take the rails alone; shares of them: {shares or 'none anywhere'}")
    if load.tools.issuperset(TOOLS):  # a part of the module says nothing of the whole
        looking_s, module_s = spent.facts_s + load.counted_s, time.monotonic() - spent.began
        evidence.note("facts and counters took", f"{looking_s:.2f} of {module_s:.1f} s")
        measure("facts_and_counters_percent", 100 * looking_s / module_s)
    wrong.judge()
    measure.judge()


def _counted_by(port: HcaPort, grown: Grown) -> int:
    """Bytes of a port, the larger one of sent and received; where it counts none, of its interface."""
    words = (grown.rdma.get((port.name, f"port_{way}_data"), 0) for way in ("xmit", "rcv"))
    return 4 * max(words) or grown.bytes_of(port.port.netdev or "")
