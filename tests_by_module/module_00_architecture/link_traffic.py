"""What a link carried, against its way back, the other links and its ports, each as a ratio that is certain to 99 %."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from fixtures.baseline.intervals import log_ratio, mean_interval
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Finding, Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import interface_of
from fixtures.cluster.probes.traffic import TRANSFER_BYTES, Way
from fixtures.kv.floor import Link, netdev_link

CERTAIN = 0.99
NEAR_S = 0.001  # whatever the other links do: a first token takes ten times as long
SPARED = 1  # failed transfer of a way: a node may stall for seconds
NOTHING_BYTES_PER_S = 1.0  # where no byte arrives: a ratio needs a figure
# what is wrong with a way whose figure of that name is beyond its bound
SENTENCES = {
    "of_way_back": "slower than the way back, {mb_per_s:.3g} MB/s, at most {of_way_back:.2g} of it",
    "of_other_links": "slower than the other links, {mb_per_s:.3g} MB/s, at most {of_other_links:.2g} of them",
    "of_least_for_port": "slower than its port ({port}), {mb_per_s:.3g} MB/s, {of_least_for_port:.2g} of the least",
    "round_trip_ms": "slow to answer, {round_trip_ms:.3g} ms there and back",
    "round_trip_of_others": "slower to answer than the other links, {round_trip_of_others:.3g} times as long",
    "lost_percent": "loses {lost_percent:.2g} % of the bytes, which TCP sends again",
}
COLUMNS = ("mb_per_s", *SENTENCES)


@dataclass(frozen=True)
class Judged:
    """A way with its figures: shares are the highest that they may be, None where there is nothing to compare with."""

    way: Way
    mb_per_s: float
    of_way_back: float | None
    of_other_links: float | None
    of_least_for_port: float | None
    port: str  # what the narrower one says of itself
    round_trip_ms: float
    round_trip_of_others: float | None
    lost_percent: float | None


def ports_of(nodes: Sequence[Node], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Link]:
    """What the interface of each node's data address says that it carries, by the node's name; some say nothing."""
    ports = {}
    for node in nodes:
        if (name := interface_of(node.address, found[node.name])) is not None:
            try:
                ports[node.name] = netdev_link(f"{name} of {node.name}", found[node.name][name])
            except ValueError:
                continue  # a virtual interface has no speed of its own
    return ports


def judged(ways: Sequence[Way], within: Sequence[Way], ports: Mapping[str, Link]) -> list[Judged]:
    """`within` and `ports` say what the two ends of a way carry, without a link and by their ports."""
    moved = {way.ends: way for way in ways if way.sent}
    own = {way.source: median(way.bytes_per_s) for way in within if way.sent}
    # each figure once: of 300 nodes there are 89,700 ways
    middles = {ends: median(_figures(way)) for ends, way in moved.items()}
    trips = {ends: way.round_trip_s for ends, way in moved.items()}
    narrower = {ends: _narrower(ends, ports) for ends in moved}
    alike: dict[float | None, list[float]] = defaultdict(list)
    for ends, port in narrower.items():
        alike[port.bytes_per_s if port else None].append(middles[ends])
    for middle in alike.values():
        middle.sort()
    every_trip = sorted(trips.values())

    def one(ends: tuple[str, str], way: Way) -> Judged:
        figures, port, back = _figures(way), narrower[ends], moved.get(ends[::-1])
        link = [each for each in (ends, ends[::-1]) if each in moved]
        at_most = mean_interval(figures, CERTAIN)[2]
        least = None
        if port:  # a processor that is slower than its port is not the link's fault
            ceiling = min([port.bytes_per_s, *(own[end] for end in ends if end in own)])
            least = ceiling * port.least_bytes_per_s / port.bytes_per_s
        of_others = median_without(alike[port.bytes_per_s if port else None], [middles[each] for each in link])
        trip_of_others = median_without(every_trip, [trips[each] for each in link])
        return Judged(
            way=way,
            mb_per_s=median(way.bytes_per_s) / 1e6,
            of_way_back=log_ratio(figures, _figures(back)).interval(CERTAIN).high
            if back and min(len(figures), len(back.sent)) > 1
            else None,
            of_other_links=at_most / of_others if of_others else None,
            of_least_for_port=at_most / least if least else None,
            port=port.source if port else "",
            round_trip_ms=way.round_trip_s * 1000,
            round_trip_of_others=way.round_trip_s / trip_of_others
            if trip_of_others and way.round_trip_s > NEAR_S
            else None,
            lost_percent=None if way.lost is None else way.lost * 100,
        )

    return [one(ends, way) for ends, way in moved.items()]


def median_without(ordered: Sequence[float], left_out: Iterable[float]) -> float | None:
    """Of sorted figures but for some of them, without a walk over all; None where there are no others."""
    gone: list[int] = []
    for figure in sorted(left_out):
        gone.append(bisect_left(ordered, figure, lo=gone[-1] + 1 if gone else 0))
    count = len(ordered) - len(gone)

    def kept(number: int) -> float:
        for index in gone:
            number += number >= index
        return ordered[number]

    return (kept((count - 1) // 2) + kept(count // 2)) / 2 if count else None


def _narrower(ends: tuple[str, str], ports: Mapping[str, Link]) -> Link | None:
    known = [ports[end] for end in ends if end in ports]
    return min(known, key=lambda link: link.bytes_per_s, default=None)


def _figures(way: Way) -> list[float]:
    return [max(NOTHING_BYTES_PER_S, each) for each in way.bytes_per_s]


def judge(ways: Sequence[Way], found: Sequence[Judged], measure: Measure, evidence: Evidence) -> None:
    """Raises FoundWrong with a sentence for each way that carries nothing, and for each figure beyond its bound."""
    rows = [[each.way.source, each.way.target, *(getattr(each, name) for name in COLUMNS)] for each in found]
    evidence.table("links", ["from", "to", *(name.replace("_", " ") for name in COLUMNS)], rows)
    Findings(wrong_with(ways, found, measure)).judge(ways=[way.ends for way in ways])
    measure.judge()


def wrong_with(ways: Sequence[Way], found: Sequence[Judged], measure: Measure) -> list[Finding]:
    """What is wrong with the ways, the worst figures being measured."""
    wrong = []
    for way in ways:
        if len(way.errors) > SPARED:
            tries = len(way.errors) + len(way.sent)
            failed = f"{way}: {len(way.errors)} of {tries} transfers failed: {way.errors[0]}"
            wrong.append(Finding(failed, way=way.ends))
    for each in found:
        if not each.mb_per_s:
            nothing = (
                f"{each.way}: no byte of {TRANSFER_BYTES >> 20} MiB arrives, while single bytes go there and back in "
                f"{each.round_trip_ms:.2g} ms: frames of full size are lost on the way (MTU)"
            )
            wrong.append(Finding(nothing, way=each.way.ends))
    carry = [each for each in found if each.mb_per_s]
    figures = {name: [it for each in carry if (it := getattr(each, name)) is not None] for name in COLUMNS}
    measure("slowest_mb_per_s", min(each.mb_per_s for each in found) if found else None, n=len(found))
    if shares := figures["of_way_back"]:
        measure("of_way_back", min(shares), n=len(shares))
    if shares := figures["of_other_links"]:
        measure("of_other_links", min(shares), n=len(shares))
    if shares := figures["of_least_for_port"]:
        measure("of_least_for_port", min(shares), n=len(shares))
    if times := figures["round_trip_ms"]:
        measure("round_trip_ms", max(times), n=len(times))
    if times := figures["round_trip_of_others"]:
        measure("round_trip_of_others", max(times), n=len(times))
    if shares := figures["lost_percent"]:
        measure("lost_percent", max(shares), n=len(shares))
    for measurement in measure.measurements:
        if measurement.judgement == "fail" and measurement.name in SENTENCES:
            for each in carry:
                figure = getattr(each, measurement.name)
                if figure is not None and replace(measurement, value=figure).judgement == "fail":
                    said = SENTENCES[measurement.name].format(**vars(each))
                    wrong.append(Finding(f"{each.way}: {said}; expected {measurement.threshold}", way=each.way.ends))
    return wrong
