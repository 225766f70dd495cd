"""Prefill and decode: their workers, and what each side counts of prompts and of KV that came from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from fixtures.baseline.record import RunSet
from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.errors import NotOffered
from fixtures.causes.traces import lines
from fixtures.clients import prometheus
from fixtures.clients.answer import Answer
from fixtures.cluster.nodes import Node
from fixtures.kv.engine_counters import EngineCounters, counters_of
from fixtures.kv.floor import Transfers
from fixtures.kv.ucx_log import UCX_LINES
from fixtures.product.deployments.deployment import NOT_QUIET, Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.dynamo import Worker

DISAGGREGATED_CHECK, DIVISIONS_CHECK = "M10-01", "M10-17"
COUNTED_WITHIN_S = 15
# etcd's lease of a lost worker is 10 s, and it registers as soon as it is ready
BACK_WITHIN_S = 30


@dataclass(frozen=True)
class Counted:
    """Prompt tokens by where their KV came from, and transfers that this side has moved (bytes, s)."""

    computed: float = 0
    cached: float = 0
    transferred: float = 0
    nixl_bytes: float = 0
    nixl_seconds: float = 0
    nixl_count: float = 0
    failed: float = 0
    expired: float = 0
    untold: float = 0

    def __sub__(self, other: Counted) -> Counted:
        before = asdict(other)
        return Counted(**{name: value - before[name] for name, value in asdict(self).items()})

    def __add__(self, other: Counted) -> Counted:
        more = asdict(other)
        return Counted(**{name: value + more[name] for name, value in asdict(self).items()})

    @property
    def tokens(self) -> float:
        return self.computed + self.cached + self.transferred

    def transfers(self, in_flight: int = 1) -> Transfers:
        return Transfers(self.nixl_bytes, self.nixl_seconds, int(self.nixl_count), in_flight)


@dataclass(frozen=True)
class Asked:
    """An answer, and what each side counted for it."""

    tokens: int
    answer: Answer
    counted: dict[str, Counted]


@dataclass(frozen=True)
class Crowd:
    """Prompts that were asked at once, while other clients left in the middle of their answers."""

    answers: dict[str, Answer]
    left: int
    told: str


@dataclass(frozen=True)
class Division:
    """One division of the workers into prefill and decode: its runs by profile, and each worker's part of the load."""

    runs: Mapping[str, RunSet]
    of_equal_share: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """A worker that ran already; `pid` is its first process."""

    node: Node
    system_url: str
    pid: int

    def log(self) -> str:
        """What UCX wrote into the logs that the inventory declares of its node. Raises RemoteError."""
        return lines(self.node, *UCX_LINES)


@dataclass(frozen=True)
class Sides:
    """The deployment and its workers of either type, with what both sides had counted when they were found."""

    deployment: Deployment
    prefill: Sequence[Worker | Found]
    decode: Sequence[Worker | Found]
    engine: str
    before: Mapping[str, Counted] = field(default_factory=dict)

    @property
    def counters(self) -> EngineCounters:
        """Raises NotOffered."""
        return counters_of(self.engine)

    def moved(self, counted: Mapping[str, Counted]) -> Counted:
        """That of the side that moves KV."""
        return counted[self.counters.moved_by]

    @property
    def both(self) -> Mapping[str, Sequence[Worker | Found]]:
        return {"prefill": self.prefill, "decode": self.decode}

    @property
    def workers(self) -> dict[str, Worker | Found]:
        """All of them by type, with a number where there are several: prefill-2."""
        return {
            kind if len(workers) == 1 else f"{kind}-{n}": worker
            for kind, workers in self.both.items()
            for n, worker in enumerate(workers, 1)
        }

    def require_one_of_each(self) -> None:
        """Raises NotOffered where there are several of a type."""
        if len(self.workers) > 2:
            told = " and ".join(f"{len(workers)} {kind}" for kind, workers in self.both.items())
            raise NotOffered(f"it looks at one worker that prefills and one that decodes: here are {told}")

    def require_alone(self, counted: Mapping[str, Counted], prompt_tokens: float) -> None:
        """Raises NotOffered where a side has counted more than these, and they may be others'."""
        if self.deployment.shared and any(each.tokens > prompt_tokens for each in counted.values()):
            raise NotOffered(NOT_QUIET)

    def page(self, worker: Worker | Found) -> prometheus.Metrics:
        """Its metrics. Raises CouldNotLook."""
        return prometheus.scrape(self.deployment.reach(f"{worker.system_url}/metrics"), only=self.counters.page)

    def counted(self) -> dict[str, Counted]:
        """What each side has counted so far, by its name."""
        return {
            kind: sum((self.count_of(worker) for worker in workers), Counted()) for kind, workers in self.both.items()
        }

    def count_of(self, worker: Worker | Found) -> Counted:
        """What one worker has counted; 0 of what its engine does not count, or has not yet. Raises CouldNotLook."""
        page, own = self.page(worker), self.counters
        return Counted(
            computed=own.computed.read(page),
            cached=own.cached.read(page),
            transferred=own.came(page),
            nixl_bytes=own.kv_bytes.read(page),
            nixl_seconds=own.kv_seconds.read(page),
            nixl_count=own.kv_count.read(page),
            failed=own.failed.read(page),
            expired=own.expired.read(page) if own.expired else 0,
            untold=own.unnotified.read(page) if own.unnotified else 0,
        )

    def tokens_since(self, before: Mapping[str, Counted]) -> dict[str, float]:
        """Prompt tokens that each worker has counted since."""
        return {name: (self.count_of(worker) - before[name]).tokens for name, worker in self.workers.items()}

    def of_equal_share(self, tokens: Mapping[str, float]) -> dict[str, float]:
        """What each worker has of an equal share among those of its type, by name."""
        shares: dict[str, float] = {}
        for kind, workers in self.both.items():
            of_kind = {name: counted for name, counted in tokens.items() if name.startswith(kind)}
            equal = sum(of_kind.values()) / len(workers)
            shares |= {name: counted / equal if equal else 0.0 for name, counted in of_kind.items()}
        return shares

    def require_counters_of_losses(self) -> None:
        """Raises NotOffered for an engine that has no leases of KV, CouldNotLook where a side does not count failed
        transfers and leases that expired."""
        self.counters.require("expired")
        for worker in self.workers.values():
            page = self.page(worker)
            for counter in filter(None, (self.counters.failed, self.counters.expired)):
                counter.require(page)

    def counted_since(self, before: Mapping[str, Counted], prompt_tokens: int) -> dict[str, Counted]:
        """What each has counted since, as soon as both know of `prompt_tokens`; or what there is in the end."""
        found: dict[str, Counted] = {}

        def look() -> tuple[bool | None, object]:
            found.update({name: now - before[name] for name, now in self.counted().items()})
            return all(each.tokens >= prompt_tokens for each in found.values()) or None, found

        deadline = Deadline(COUNTED_WITHIN_S, "both sides to count the prompts")
        with suppress(deadline.Exceeded):  # a side that was not asked at all: the check says so
            wait_until(look, deadline, every_s=0.2)
        return found


@dataclass(frozen=True)
class OwnSides(Sides):
    """Those that the suite has started, for checks that stop, kill or change them."""

    deployment: ManagedDeployment
    prefill: Sequence[Worker]
    decode: Sequence[Worker]

    @property
    def both(self) -> Mapping[str, Sequence[Worker]]:
        return {"prefill": self.prefill, "decode": self.decode}

    def registered(self, worker: Worker) -> set[int]:
        """The instance ids that it is registered under: two while the lease of a lost one has not run out."""
        found = self.deployment.registered_workers()
        return {each.instance_id for each in found if each.system_url == worker.system_url}

    def wait_until_back(self, worker: Worker, before: set[int]) -> None:
        """Until it is registered anew, and no longer as `before`. Raises AssertionError."""

        def look() -> tuple[bool | None, object]:
            now = self.registered(worker)
            return bool(now and not now & before) or None, f"it was {before}, and is {now or 'nothing'}"

        deadline = Deadline(BACK_WITHIN_S, f"{worker.name} to be registered again")
        try:
            wait_until(look, deadline, every_s=0.2)
        except deadline.Exceeded as error:
            raise AssertionError(f"a side that was lost does not come back: {error}") from None
