"""The loads of this module: sent, refused where the client was the bottleneck, and kept by what they are."""

from dataclasses import dataclass, replace

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.errors import BringUpFailed
from fixtures.basics.require import require
from fixtures.benchmark.replay import replayed
from fixtures.benchmark.sending import ClientStarved, Sender, Sent
from fixtures.benchmark.sizes import Sizes
from fixtures.load.plan import LoadPlan
from fixtures.load.traces import Traces, mooncake_lines
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run

CLIENT_CHECK = "M12-02"
# percent of the knee's rate, in this order; after the overload RECOVERS_AT comes once more
RATES = (25, 50, 75, 100, 125)
RECOVERS_AT = 50
# how long prompts are that share a head, in prompts of the sweep, and how much of a prompt that is
LONG, SHARED = 8, 0.75
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
        """Raises BringUpFailed where the client was the bottleneck: then nothing that it saw is a number."""
        try:
            sent = self.sender.send(name, plan, measured=measured)
        except ClientStarved as error:
            raise BringUpFailed(CLIENT_CHECK, str(error)) from None
        return replace(sent, requests=self.run.at("module_12.records", sent.requests, name=name))


def prefix_plans(sizes: Sizes, seed: int) -> tuple[LoadPlan, LoadPlan]:
    """Long prompts that share nothing, and as many of which each begins with one of two heads."""
    length = LONG * sizes.input_tokens
    own = replace(sizes.at_once(sizes.concurrency[1], seed), prompt_tokens=(length, length))
    return own, replace(own, seed=seed + 1, shared_prefixes=(2, round(SHARED * length)))


def trace_of(deployment: Deployment, sizes: Sizes, seed: int, run_id: str) -> tuple[LoadPlan, list[int]]:
    """A trace in Mooncake's format as a load, and the prompt tokens of each request that its hash ids promise."""
    cards = [worker.card for worker in deployment.registered_workers() if worker.card]
    block_size = int(require(cards, "a model card")[0]["kv_cache_block_size"])
    lines = mooncake_lines(seed, TRACE_REQUESTS, output_length=sizes.output_tokens)
    return replayed(lines, Traces(block_size, seed, run_id), sizes.within_s, TRACE_SPEED)


@dataclass(frozen=True)
class Arriving:
    """By percent of the knee's rate what was sent; and once more at RECOVERS_AT, right after the overload."""

    by_percent: dict[int, Sent]
    recovered: Sent


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
