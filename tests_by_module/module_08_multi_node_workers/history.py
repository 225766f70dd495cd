"""What was recorded under a load: who served it, what moved on the links, and how a worker came and went."""

from dataclasses import dataclass

from fixtures.load.from_node import LoadResult
from fixtures.load.request import Moment
from tests_by_module.module_08_multi_node_workers.workers_by_node import Member


@dataclass(frozen=True)
class Links:
    """What moved during the load: bytes of requests that each worker counted, and bytes of each node's interfaces."""

    request_bytes: dict[int, float]
    before: dict[str, dict]
    after: dict[str, dict]

    def moved(self, node: str, interface: str) -> tuple[int, int]:
        """Bytes received and sent."""
        before, after = self.before[node][interface], self.after[node][interface]
        return after["rx_bytes"] - before["rx_bytes"], after["tx_bytes"] - before["tx_bytes"]


@dataclass(frozen=True)
class Served:
    """A load that is over, the workers, how many requests each has counted meanwhile, and what moved on the links."""

    load: LoadResult
    workers: list[Member]
    counted: dict[int, float]
    links: Links


@dataclass(frozen=True)
class Scaled:
    """A load under which a worker joined on the second node, and left it again on SIGTERM.

    `signalled` is before SIGTERM was sent, `arrived` after it was there: seconds lie between them on a busy machine.
    `broken_off` were under way on a worker and went on elsewhere, `refused` were sent elsewhere before they had begun.
    """

    load: LoadResult
    stayed: int
    came: int
    registered: Moment
    signalled: Moment
    arrived: Moment
    exit_status: int | None
    broken_off: int
    refused: int

    def between(self, begin_s: float, end_s: float) -> list:
        return [request for request in self.load.requests if begin_s <= request.sent_at_s <= end_s]
