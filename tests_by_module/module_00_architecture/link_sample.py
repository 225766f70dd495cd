"""Which pairs of nodes are measured: every one of a few nodes, and of many a sample, then all of those that fail."""

import random
from collections.abc import Collection, Sequence
from itertools import islice

from fixtures.basics.ways import Way, common
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.traffic import rounds

# of the tournament: all of them up to 16 nodes
MOST_ROUNDS = 15
# more than that are a fault of the network, which their pairs do not narrow down
MOST_SUSPECTS = 8

Pairs = list[tuple[Node, Node]]


def drawn(nodes: Sequence[Node], seed: int) -> list[Pairs]:
    """Rounds in which nobody is in two pairs: all, or so many that each node meets 14 or 15 others, by chance."""
    shuffled = random.Random(seed).sample(nodes, len(nodes))
    return list(islice(rounds(shuffled), MOST_ROUNDS))


def is_sample(nodes: Sequence[Node]) -> bool:
    return len(nodes) > MOST_ROUNDS + 1


def suspects(failed: Collection[Way], every: Collection[Way]) -> list[str]:
    """The nodes of which all ways fail, and both ends of other ones that do; [] where all ways or too many fail."""
    shared = common(failed, every)
    explained = {way for each in shared for way in each.ways}
    names = {each.node for each in shared} | {name for way in set(failed) - explained for name in way}
    return [] if "" in names or len(names) > MOST_SUSPECTS else sorted(names)


def left_of(nodes: Sequence[Node], names: Collection[str], tried: Collection[Way]) -> list[Pairs]:
    """Rounds of all pairs of these nodes that were not tried."""
    left = [
        [
            (one, other)
            for one, other in pairs
            if (one.name in names or other.name in names) and (one.name, other.name) not in tried
        ]
        for pairs in rounds(nodes)
    ]
    return [pairs for pairs in left if pairs]
