"""What perftest carried over the rails between nodes: each alone, both directions at once, and all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fixtures.cluster.probes.traffic import rounds
from fixtures.fabric.counters import Grown, Kind
from fixtures.fabric.load import Load, Result, Test
from fixtures.fabric.perftest import ALL_SIZES, Bandwidth, Refused, Tool
from fixtures.fabric.ports import HcaPort, links
from fixtures.fabric.rates import Rate, Way
from fixtures.kv.floor import Link, rdma_link

SIZE = 65536  # perftest's own, and that of published figures
FIRST, LEAST = 200, 5  # iterations: of the first look at a link (13 MB), and the fewest that perftest takes
LASTS_S = 1.0  # of one test: a hundred times what a link of 200 Gb/s needs for the first look
TOGETHER_S = 2.0  # of tests that must overlap: they start within some 0.1 s
SIZES_S = 2.0  # of all sizes

Ports = Mapping[str, Sequence[HcaPort]]


@dataclass
class Spent:
    """When the module began, and what reading the nodes' facts took, in seconds."""

    began: float
    facts_s: float


@dataclass(kw_only=True)
class Carried:
    """A load: why ways carried nothing, what each way sent, and what the nodes counted during all of it."""

    during: str
    tool: Tool = "ib_write_bw"
    refused: dict[Way, Refused] = field(default_factory=dict)
    sent_bytes: dict[Way, int] = field(default_factory=dict)
    grown: list[Grown] = field(default_factory=list)

    def rows(self, result: Result) -> list[Bandwidth]:
        """What a test says, whose bytes are counted here; empty where it is refused, which is kept, too."""
        way = result.test.way
        try:
            found = result.bandwidths()
        except Refused as why:
            self.refused[way] = why
            return []
        for each in (way, way.back) if result.test.both_ways else (way,):
            self.sent_bytes[each] = self.sent_bytes.get(each, 0) + sum(row.size * row.iterations for row in found)
        return found

    def rate(self, result: Result) -> float | None:
        """The rate in Gb/s of a test of one size."""
        return next((row.gbit_per_s for row in self.rows(result)), None)


@dataclass
class Alone(Carried):
    """Each way by itself: its rate in Gb/s."""

    during: str = field(default="each way alone", kw_only=True)
    rates: dict[Way, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool | None:
        """No port counted an error or a loss; None where not every port of these ways counts both."""
        kinds: set[Kind] = {"errors", "lost"}
        if any(each.of_kind(kind) for each in self.grown for kind in kinds):
            return False
        ports = {way.source for way in self.rates}
        of = {each.node: each for each in self.grown}
        unknown = [port for port in ports if port.node not in of or kinds & {*of[port.node].uncounted(port)}]
        return None if unknown else True

    def against_capacity(self) -> list[Rate]:
        return [Rate(way, rate, capacity([way])) for way, rate in self.rates.items()]


@dataclass
class BothWays(Carried):
    """Each rail by itself, in both directions at once: its rates added up, by one of its ways."""

    during: str = field(default="both directions of a rail", kw_only=True)
    rates: dict[Way, float] = field(default_factory=dict)


@dataclass
class Together(Carried):
    """All rails of two nodes at once: the rates of a direction, by (from, to) node; `both`: of both at once."""

    during: str = field(default="all rails at once", kw_only=True)
    rates: dict[tuple[str, str], dict[Way, float]] = field(default_factory=dict)
    both: dict[tuple[str, str], dict[Way, float]] = field(default_factory=dict)


@dataclass
class OfSizes(Carried):
    """Each way by itself: a row for each size of message."""

    during: str = field(default="all sizes", kw_only=True)
    by_way: dict[Way, list[Bandwidth]] = field(default_factory=dict)


def capacity(ways: Sequence[Way], carried: Mapping[Way, float] | None = None) -> float | None:
    """Gb/s that ports and PCIe lanes of both ends allow for these ways at once; None where they say nothing."""
    least = []
    for end in ("source", "target"):
        ports: list[HcaPort] = [getattr(way, end) for way in ways]
        shares = {port.name: (carried or {}).get(way, 1.0) for port, way in zip(ports, ways, strict=True)}
        try:
            least.append(_link(ports, shares).bytes_per_s * 8e-9)
        except ValueError:
            return None
    return min(least)


def _link(ports: Sequence[HcaPort], shares: Mapping[str, float]) -> Link:
    """Raises ValueError where a port does not say its rate."""
    known = {}
    for port in ports:
        lanes = port.device.lanes
        pcie = {"slot": lanes.slot.partition(".")[0], "speed": lanes.speed, "width": lanes.width}
        known[port.name] = {"rate": port.port.rate, "cage": port.socket, "pcie": pcie}
    return rdma_link(known, list(known), shares)


def turns(ports: Ports) -> Iterator[list[Way]]:
    """Every way of every rail of every two nodes, those that share no node at once."""
    for pairs in rounds(list(ports)):
        rails = [links(ports[one], ports[other]) for one, other in pairs]
        for nth in range(max(map(len, rails), default=0)):
            there = [Way(*of_pair[nth]) for of_pair in rails if nth < len(of_pair)]
            yield there
            yield [way.back for way in there]


def each_alone(load: Load, ports: Ports) -> Alone:
    found = Alone()

    def all_turns() -> None:
        for ways in turns(ports):
            _measure(load, [Test("ib_write_bw", way, FIRST, (SIZE,)) for way in ways], found)
            short = [way for way in ways if way in found.rates and _lasts_s(found.rates[way]) < LASTS_S / 2]
            if short:
                _measure(load, [lasting("ib_write_bw", way, found.rates[way], LASTS_S) for way in short], found)

    _, found.grown = load.counting(all_turns)
    return found


def _measure(load: Load, tests: Sequence[Test], found: Alone) -> None:
    for result in load.run(tests):
        if (rate := found.rate(result)) is None:
            found.rates.pop(result.test.way, None)
        else:
            found.rates[result.test.way] = rate


def _lasts_s(gbit_per_s: float) -> float:
    return FIRST * SIZE * 8e-9 / gbit_per_s


def lasting(tool: Tool, way: Way, gbit_per_s: float, seconds: float, sizes: tuple[int, ...] = (SIZE,)) -> Test:
    """A test that takes about so long at that rate; of several sizes the largest are what counts."""
    iterations = max(LEAST, round(gbit_per_s * 1e9 / 8 * seconds / sum(sizes)))
    return Test(tool, way, iterations, sizes, max(seconds, iterations * sum(sizes) * 8e-9 / gbit_per_s))


def each_alone_by(tool: Tool, load: Load, ports: Ports, alone: Alone) -> Alone:
    """What another tool carries, as long as a write was measured to need."""
    found = Alone(during=f"{tool}, each way alone", tool=tool)

    def all_turns() -> None:
        for ways in turns(ports):
            _measure(load, [lasting(tool, way, alone.rates[way], LASTS_S) for way in ways], found)

    _, found.grown = load.counting(all_turns)
    return found


def of_sizes(load: Load, ports: Ports, alone: Alone) -> OfSizes:
    found = OfSizes()

    def all_turns() -> None:
        for ways in turns(ports):
            for result in load.run([lasting("ib_write_bw", way, alone.rates[way], SIZES_S, ALL_SIZES) for way in ways]):
                if rows := found.rows(result):
                    found.by_way[result.test.way] = rows

    _, found.grown = load.counting(all_turns)
    return found


def both_ways(load: Load, ports: Ports, alone: Alone) -> BothWays:
    found = BothWays()

    def all_rails() -> None:
        for ways in list(turns(ports))[::2]:
            tests = [lasting("ib_write_bw", way, alone.rates[way], TOGETHER_S) for way in ways]
            for result in load.run([replace(test, both_ways=True) for test in tests]):
                if (rate := found.rate(result)) is not None:
                    found.rates[result.test.way] = rate

    _, found.grown = load.counting(all_rails)
    return found


def together(
    load: Load, ports: Ports, alone: Alone, tool: Tool = "ib_write_bw", seconds: float = TOGETHER_S
) -> Together:
    """By a tool that carried `alone` what is said there, for about so many seconds."""
    found = Together() if tool == "ib_write_bw" else Together(during=f"{tool}, all rails at once", tool=tool)

    def all_pairs() -> None:
        for pairs in rounds(list(ports)):
            there = [Way(*link) for one, other in pairs for link in links(ports[one], ports[other])]
            back = [way.back for way in there]
            for ways, rates in ((there, found.rates), (back, found.rates), (there + back, found.both)):
                tests = [lasting(tool, way, alone.rates[way], seconds) for way in ways]
                for result in load.run(tests, share_a_link=True):
                    if (rate := found.rate(result)) is not None:
                        way = result.test.way
                        one, other = way.source.node, way.target.node
                        ends = (min(one, other), max(one, other)) if rates is found.both else (one, other)
                        rates.setdefault(ends, {})[way] = rate

    _, found.grown = load.counting(all_pairs)
    return found
