"""The loads of this module: sent, refused where the client was the bottleneck, and kept by what they are."""

from dataclasses import dataclass, replace

from fixtures.basics.errors import BringUpFailed
from fixtures.benchmark.sending import ClientStarved, Sender, Sent
from fixtures.load.plan import LoadPlan
from fixtures.run import Run

CLIENT_CHECK = "M12-02"
# percent of the knee's rate, in this order; after the overload RECOVERS_AT comes once more
RATES = (25, 50, 75, 100, 125)
RECOVERS_AT = 50
OVERLOAD = 1.25
# beyond it published replays of one and the same load differ sixfold in p99
TAILS_UP_TO = 75


@dataclass(frozen=True)
class Loads:
    """Sends the loads of this module, each with a seed of its own."""

    run: Run
    sender: Sender

    def send(self, name: str, plan: LoadPlan, *, measured: bool = True) -> Sent:
        """Raises BringUpFailed where the client was the bottleneck: then nothing that it saw is a number."""
        try:
            sent = self.sender.send(name, plan, measured=measured)
        except ClientStarved as error:
            raise BringUpFailed(CLIENT_CHECK, str(error)) from None
        return replace(sent, requests=self.run.at("module_12.records", sent.requests, name=name))


@dataclass(frozen=True)
class Arriving:
    """By percent of the knee's rate what was sent; what was more than can be served, which is the last of these or a
    load of its own; and once more at RECOVERS_AT, right after it."""

    by_percent: dict[int, Sent]
    overload: Sent
    recovered: Sent

    @property
    def loads(self) -> list[Sent]:
        """All of them, in the order in which they were sent."""
        own = [] if self.overload in self.by_percent.values() else [self.overload]
        return [*self.by_percent.values(), *own, self.recovered]


def overload_per_s(highest_per_s: float, most_per_s: float) -> float | None:
    """None where the highest rate that arrives is beyond the most that the sweep has seen served.

    An engine that batches serves more beyond its knee than at it, each request more slowly.
    """
    return None if highest_per_s > most_per_s else OVERLOAD * most_per_s
