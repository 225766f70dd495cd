"""The loads of this module: sent, refused where the client was the bottleneck, and kept by what they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.errors import BringUpFailed, NotMeasured
from fixtures.basics.require import require
from fixtures.benchmark.knee import Knee, Loaded, knee
from fixtures.benchmark.replay import replayed
from fixtures.benchmark.sending import ClientStarved, Sender, Sent
from fixtures.benchmark.sizes import Sizes
from fixtures.load.plan import LoadPlan
from fixtures.load.refused import UNSTEADY_ARRIVING_SHARE, unsteady
from fixtures.load.traces import Traces, mooncake_lines
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run

KNEE_CHECK = "M12-04"
# percent of the knee's rate, in this order; after the overload RECOVERS_AT comes once more
RATES = (25, 50, 75, 100, 125)
RECOVERS_AT = 50
# of the most that the sweep has seen served: an overload, and from where on requests that arrive queue up for sure
OVERLOAD, QUEUES_FROM = 1.25, 1.1
# prompts that share a head: how long one is, in prompts of the sweep, how much of it is the head, how many heads there
# are, and how many prompts are sent
LONG, SHARED, HEADS, LEAST_SHARED = 8, 0.75, 2, 32
TRACE_SPEED, TRACE_REQUESTS = 4.0, 24
# what clients ask for that leave: seconds of decoding that nobody waits for
NEVER_WANTED_TOKENS, LEAVERS, FREED_WITHIN_S = 2000, 32, 5
# beyond it published replays of one and the same load differ sixfold in p99
TAILS_UP_TO = 75


@dataclass(frozen=True)
class Loads:
    """Sends the loads of this module, each with a seed of its own."""

    run: Run
    sender: Sender

    def send(self, name: str, plan: LoadPlan, *, measured: bool = True) -> Sent:
        """Raises ClientStarved where the client was the bottleneck: then nothing that it saw is a number."""
        sent = self.sender.send(name, plan, measured=measured)
        return replace(sent, requests=self.run.at("module_12.records", sent.requests, name=name))


@dataclass(frozen=True)
class Swept:
    """The loads of a sweep, the lowest first. `starved`: why it ended where the client was the bottleneck, else ""."""

    loads: Sequence[Sent]
    starved: str = ""

    @property
    def has_knee(self) -> bool:
        """Whether the knee lies between two of these loads."""
        return len(self.loads) > 2 and knee_of(self.loads).bracketed


def send_each(loads: Loads, plans: Mapping[str, LoadPlan]) -> Swept:
    """These loads by name, up to the first at which the client is the bottleneck."""
    sent: list[Sent] = []
    for name, plan in plans.items():
        try:
            sent.append(loads.send(name, plan))
        except ClientStarved as error:
            return Swept(sent, str(error))
    return Swept(sent)


def knee_of(sweep: Sequence[Sent]) -> Knee:
    """Raises BringUpFailed where no load of it has any throughput."""
    try:
        return knee([Loaded(each.plan.concurrency or 0, each.requests_per_s) for each in sweep])
    except ValueError as error:
        raise BringUpFailed(KNEE_CHECK, str(error)) from None


def prefix_plans(sizes: Sizes, seed: int) -> tuple[LoadPlan, LoadPlan]:
    """Long prompts that share nothing, and as many of which each begins with one of HEADS heads."""
    length = LONG * sizes.input_tokens
    own = replace(sizes.at_once(sizes.concurrency[1], seed, LEAST_SHARED), prompt_tokens=(length, length))
    return own, replace(own, seed=seed + 1, shared_prefixes=(HEADS, round(SHARED * length)))


def promised_percent(prompts: int, workers: int) -> float:
    """Of the tokens of prompts that share a head: how many are cached where each worker computes each head once.

    Raises NotMeasured where that is less than half of the heads' tokens.
    """
    computed = HEADS * workers
    if 2 * computed > prompts:
        raise NotMeasured(
            f"{prompts} prompts are too few for {workers} workers, each of which computes {HEADS} heads: "
            "dynamo_workloads names a profile with more `rounds` or `concurrency` (fixtures/benchmark/sizes.yaml)"
        )
    return 100 * SHARED * (prompts - computed) / prompts


def trace_of(deployment: Deployment, sizes: Sizes, seed: int, run_id: str) -> tuple[LoadPlan, list[int]]:
    """A trace in Mooncake's format as a load, and the prompt tokens of each request that its hash ids promise."""
    cards = [worker.card for worker in deployment.registered_workers() if worker.card]
    block_size = int(require(cards, "a model card")[0]["kv_cache_block_size"])
    lines = mooncake_lines(seed, TRACE_REQUESTS, output_length=sizes.output_tokens)
    return replayed(lines, Traces(block_size, seed, run_id), sizes.within_s, TRACE_SPEED)


@dataclass(frozen=True)
class Arriving:
    """By percent of the knee's rate what was sent; what was more than can be served, which is the last of these or a
    load of its own; and once more at RECOVERS_AT, right after it.

    `starved`: why there is no load of its own, where the client was its bottleneck."""

    by_percent: dict[int, Sent]
    overload: Sent
    recovered: Sent
    starved: str = ""

    @property
    def unsteady(self) -> list[str]:
        """Why the load that tails and goodput are judged by drifts, or nobody can say that it does not."""
        at = self.by_percent[TAILS_UP_TO]
        drift = unsteady(at.requests, 0, UNSTEADY_ARRIVING_SHARE)
        told = "too few requests were completed to say whether it is steady" if drift is None else drift
        return [f"{at.name}: {told}"] if told else []

    @property
    def loads(self) -> list[Sent]:
        """All of them, in the order in which they were sent."""
        own = [] if self.overload in self.by_percent.values() else [self.overload]
        return [*self.by_percent.values(), *own, self.recovered]


def overload_per_s(highest_per_s: float, most_per_s: float) -> float | None:
    """None where the highest rate that arrives is more than was served at any load, by more than such figures scatter.

    An engine that batches serves far more beyond its knee than at it, each request more slowly.
    """
    return None if highest_per_s > QUEUES_FROM * most_per_s else OVERLOAD * most_per_s


def until_free(deployment: Deployment, deadline: Deadline) -> None:
    """Until no worker says that it serves a request. Raises DeadlineExceeded; MetricAbsent where one does not say."""
    dialect = deployment.settings.dialect

    def look() -> tuple[bool | None, object]:
        flying = {
            f"{worker:x}": page.total(dialect.metrics.worker_in_flight, dynamo_endpoint=dialect.worker_endpoint)
            for worker, page in deployment.worker_metrics().items()
        }
        return (None if any(flying.values()) else True), f"in flight are {flying}"

    wait_until(look, deadline)
