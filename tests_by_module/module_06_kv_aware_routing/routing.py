"""Send prompts through the router, one after the other, and keep what router and workers said of each."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.versioned_table import entry_for
from fixtures.clients import prometheus
from fixtures.clients.answer import addressed_to
from fixtures.clients.inference import Answer, InferenceEndpoint, complete
from fixtures.clients.kv_events import KvEvent, KvEvents, kv_events
from fixtures.load.traces import Tokens, Trace, reused_tokens
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.registry import RegisteredWorker

# a worker's event reaches the router within milliseconds of the answer; beyond this it is taken to be lost
FOLLOWS_WITHIN_S = 2


@dataclass(frozen=True)
class Routed:
    """One request: `predicted` are the blocks that the router found cached on the worker that it chose (None: it made
    no prediction), `reused` the tokens that the worker says it did not compute, `took_s` its time to the end."""

    prompt_tokens: int
    worker: int | None
    predicted: int | None
    reused: int
    error: str | None = None
    took_s: float = 0.0

    @property
    def told(self) -> str:
        worker = f"{self.worker:x}" if self.worker is not None else "nobody"
        told = (
            f"{self.prompt_tokens} tokens at {worker}: predicted {self.predicted} blocks, reused {self.reused} tokens"
        )
        return self.error or told


@dataclass(frozen=True)
class Replay:
    """A trace as it went, with the blocks that were expected to be hit."""

    trace: Trace
    block_size: int
    expected: tuple[int, ...]
    routed: tuple[Routed, ...]

    @property
    def expected_tokens(self) -> list[int]:
        sizes = [len(prompt) for prompt in self.trace.prompts]
        return [reused_tokens(hit, size, self.block_size) for hit, size in zip(self.expected, sizes, strict=True)]

    @property
    def failures(self) -> list[str]:
        return [each.error for each in self.routed if each.error]

    def rate(self, tokens: Sequence[int]) -> float:
        """Share of the prompt tokens, in per cent."""
        return round(100 * sum(tokens) / self.trace.prompt_tokens, 1)

    @property
    def predicted_tokens(self) -> list[int]:
        sizes = [len(prompt) for prompt in self.trace.prompts]
        return [
            reused_tokens(each.predicted or 0, size, self.block_size)
            for each, size in zip(self.routed, sizes, strict=True)
        ]

    @property
    def reused(self) -> list[int]:
        return [each.reused for each in self.routed]

    def rows(self) -> list[list[object]]:
        return [
            [number, each.prompt_tokens, f"{each.worker or 0:x}", hit, each.predicted, each.reused]
            for number, (each, hit) in enumerate(zip(self.routed, self.expected, strict=True), 1)
        ]


@dataclass(frozen=True)
class Replays:
    """Every trace as it went through the router: events as published on the wire (None: this event plane cannot be
    listened to), messages of them that NATS has sent and that did not come here (None: it cannot be asked), and events
    as applied by the router, by (kind, status)."""

    by_name: dict[str, Replay]
    published: list[KvEvent] | None
    unheard: int | None
    applied: dict[tuple[str, str], float]


HEADERS = ("request", "prompt tokens", "worker", "blocks expected", "blocks predicted", "tokens reused")


def not_offered(version: str) -> dict[str, list[str]]:
    """What this version of ai-dynamo does not offer (not_offered.yaml). Raises LookupError where nobody measured."""
    return entry_for(Path(__file__).with_name("not_offered.yaml"), version)


def router_settings(version: str) -> dict[str, list[str]]:
    """A frontend's arguments by setting or mode of the router, of those that this version of ai-dynamo offers
    (router_settings.yaml). Raises LookupError where nobody measured."""
    known = entry_for(Path(__file__).with_name("router_settings.yaml"), version)["settings"]
    return {name: arguments for name, arguments in known.items() if arguments}


def block_size_of(workers: Sequence[RegisteredWorker]) -> int:
    """Tokens a block on the workers' model cards; the smallest where they differ. Raises CouldNotLook."""
    sizes = [worker.card["kv_cache_block_size"] for worker in workers if worker.card]
    if not sizes:
        raise CouldNotLook("no registered worker has a model card: the size of a block is not known")
    return min(sizes)


def send(
    deployment: Deployment,
    prompt: Tokens,
    block_size: int,
    *,
    pinned_to: int | None = None,
    url: str | None = None,
    max_tokens: int = 1,
    **nvext: object,
) -> Routed:
    """One request with `prompt`; to the worker `pinned_to`, or the frontend at `url`, where they are given."""
    endpoint = InferenceEndpoint(url, deployment.endpoint.model) if url else deployment.endpoint
    extra = addressed_to(pinned_to) | nvext
    answer = complete(endpoint, list(prompt), max_tokens=max_tokens, ignore_eos=True, nvext=extra, timeout_s=20)
    return routed(answer, len(prompt), block_size)


def routed(answer: Answer, prompt_tokens: int, block_size: int) -> Routed:
    if not answer.ok:
        return Routed(prompt_tokens, None, None, 0, answer.describe())
    timing = answer.body.get("nvext", {}).get("timing") or {}
    rate = timing.get("kv_hit_rate")
    usage = answer.usage or {}
    if usage.get("prompt_tokens") != prompt_tokens:
        error = f"{prompt_tokens} token ids were sent, usage reports {usage.get('prompt_tokens')} prompt tokens"
        return Routed(prompt_tokens, None, None, 0, error)
    return Routed(
        prompt_tokens,
        next(iter(answer.worker_ids), None),
        None if rate is None else round(rate * math.ceil(prompt_tokens / block_size)),
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        took_s=answer.duration_s,
    )


def workers_of(routed: Sequence[Routed]) -> list[int]:
    """The worker of each request that was served. Raises CouldNotLook when an answer does not name one."""
    served = [each for each in routed if not each.error]
    named = [each.worker for each in served if each.worker is not None]
    if len(named) < len(served):
        anonymous = len(served) - len(named)
        raise CouldNotLook(f"{anonymous} of {len(served)} answers name no worker: nothing can be said of the choice")
    return named


def events_applied(deployment: Deployment, frontend_url: str | None = None) -> dict[tuple[str, str], float]:
    """What the router (of the frontend at `frontend_url`) has done with events it received, by (kind, status); nothing
    where its version does not count them."""
    wanted = deployment.settings.dialect.metrics.kv_events_applied
    if wanted is None:
        return {}
    url = frontend_url or deployment.reach(deployment.frontend_url)
    metrics = prometheus.scrape(f"{url}/metrics", only=wanted)
    return {(labels["event_type"], labels["status"]): value for labels, value in metrics.counter(wanted) if value}


@contextmanager
def listening(deployment: Deployment) -> Iterator[KvEvents | None]:
    """Listens to the workers' KV events where they go over NATS; else gives None."""
    if deployment.settings.event_plane != "nats":
        yield None
        return
    with kv_events(deployment.reach(deployment.settings.nats_url), deployment.subject("kv-events")) as seen:
        yield seen


class Index:
    """Follows the router's index: a prompt whose blocks are new is known to it when one more event was applied."""

    def __init__(self, deployment: Deployment, frontend_url: str | None = None) -> None:
        self.deployment = deployment
        self.frontend_url = frontend_url
        self.late = False  # once an event did not come, waiting for others would only take long

    def stored(self) -> float:
        applied = events_applied(self.deployment, self.frontend_url)
        return sum(value for (kind, _), value in applied.items() if kind == "stored")

    def wait_beyond(self, before: float) -> None:
        """Until an event more than `before` was applied. Whether one was is for checks to judge, not for this."""
        if self.late:
            return
        deadline = Deadline(FOLLOWS_WITHIN_S, "the router to apply an event")
        try:
            wait_until(lambda: (True if self.stored() > before else None, "none yet"), deadline, every_s=0.005)
        except DeadlineExceeded:
            self.late = True


def replay(deployment: Deployment, trace: Trace, block_size: int, expected: Sequence[int], *, follow: bool) -> Replay:
    """Send a trace, a request when the one before is answered and, with `follow`, known to the router's index."""
    index = Index(deployment)
    sent = []
    for prompt, hit in zip(trace.prompts, expected, strict=True):
        news = follow and len(prompt) // block_size > hit
        before = index.stored() if news else 0
        sent.append(send(deployment, prompt, block_size))
        if news:
            index.wait_beyond(before)
    return Replay(trace, block_size, tuple(expected), tuple(sent))


def disagreements(routed: Sequence[Routed], block_size: int) -> list[str]:
    """Requests of which the worker did not reuse exactly what the router had predicted."""
    return [
        f"request {number} of {each.told}"
        for number, each in enumerate(routed, 1)
        if each.predicted is None or each.reused != reused_tokens(each.predicted, each.prompt_tokens, block_size)
    ]


def who_lacks_events(published: int, applied: float) -> str:
    """What it means that the router has not applied as many events as were heard."""
    if applied < published:
        return f"{published - applied:g} of {published} did not reach it, or it left them out"
    if applied > published:
        return f"{applied - published:g} did not reach the suite, or it has applied them twice"
    return "as many, of other kinds"
