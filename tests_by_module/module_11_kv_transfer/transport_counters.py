"""What carried a known number of bytes between two ends."""

from collections.abc import Callable
from typing import TypeVar

from fixtures.cluster.probes.probe import carriers
from fixtures.kv.counters import Carried, carried
from fixtures.kv.pair import Operation, Pair, whole
from fixtures.run import Run

T = TypeVar("T")

# so much that what else passes an interface, such as loopback, during two looks is little beside it; on a slow link as
# much as it carries in that time, in which others carry little as well
ENOUGH_BYTES, ENOUGH_S = 256 * 2**20, 20.0


def counted(run: Run, pair: Pair, act: Callable[[], T]) -> tuple[T, list[Carried]]:
    """What `act` returned, and what each node of the pair counted meanwhile. Raises ValueError when it cannot tell."""
    nodes = {side.node.name: side.node for side in (pair.near, pair.far)}.values()

    def look() -> dict[str, dict]:
        return {node.name: run.at("module_11.carriers", carriers(node), node=node) for node in nodes}

    before = look()
    done = act()
    after = look()
    return done, [carried(name, before[name], after[name]) for name in before]


def move(pair: Pair, operation: Operation) -> tuple[int, int]:
    """The whole memory, several times; bytes asked for, and bytes that NIXL's telemetry counted.

    One operation at a time: counters tell what was sent and what was received, and the larger one is taken.
    """
    told = pair.done(operation, whole(pair.size), times=-(-ENOUGH_BYTES // pair.size), seconds=ENOUGH_S)
    times = len(told["took_s"])
    return times * pair.size, times * told["counted"]
