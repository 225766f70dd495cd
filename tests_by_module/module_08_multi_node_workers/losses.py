"""Something is lost under a steady load, and comes back: what the client saw of it, recorded first and judged later."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixtures.basics.deadline import Deadline, pause
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.versioned_table import entry_for
from fixtures.cluster.inventory.model import Inventory, NodeSpec
from fixtures.faults import Fault, in_place
from fixtures.faults.chart import fault_timeline
from fixtures.faults.timeline import hit, lost, recovered_at_s, require_none_lost
from fixtures.load.from_node import LoadResult, NodeLoad
from fixtures.load.plan import LoadPlan
from fixtures.load.request import COMPLETED, FAILED, HUNG, Moment, Request
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.placement import Placement
from fixtures.product.deployments.supervisor import registered, supervise
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.workers_by_node import load_from_client, nodes_with_workers

EXPECTED = Path(__file__).with_name("expected_faults.yaml")
# streams of 1.4 s at the mocker's 150 tokens/s: about seven are in flight on each of two workers
RATE_PER_S, OUTPUT_TOKENS, PROMPT_TOKENS = 10.0, (200, 250), (20, 60)
# a request without an end after that is hung: more than any stream here takes that merely pauses
HUNG_AFTER_S = 8.0
# one that takes longer than that is not served as before
SERVED_WITHIN_S = 4.0
ENOUGH = 10  # requests in a row that show that all is well
SUPERVISED_S = 30.0
# all is well for so long while the load goes on; after an outage at least as long as it was: TCP doubles its pauses, so
# that only then everybody has asked etcd once more, and those whose lease is lost have ended
GOES_ON_S = 5.5


@dataclass(frozen=True)
class Loss:
    """A load under which something was lost. `ended`: services that ended meanwhile, with their exit status.

    `victims` are the instance ids of the workers that were hit, `came` those that are registered at the end and were
    not at the beginning. `restarted` is when all that had ended was ready again; None: nothing had ended.
    """

    name: str
    load: LoadResult
    victims: frozenset[int]
    came: frozenset[int]
    stayed: frozenset[int]
    ended: dict[str, int | None]
    restarted: Moment | None

    @property
    def requests(self) -> list[Request]:
        return self.load.requests

    def moment(self, name: str) -> Moment:
        """The fault's own are "injected", "takes effect", "heal" and "healed"."""
        return self.load.moments[0] if name == "injected" else next(it for it in self.load.moments if it.name == name)

    @property
    def lost(self) -> list[Request]:
        return lost(self.requests)

    @property
    def hung(self) -> list[Request]:
        return [request for request in self.requests if request.outcome == HUNG]

    def on_victims(self) -> list[Request]:
        """Streams that a victim was serving when the fault came. Raises CouldNotLook when there was none."""
        at = self.moment("injected").at_s
        found = [it for it in hit(self.requests, at, at) if self.victims & set(it.worker_ids)]
        if not found:
            raise CouldNotLook(f"{self.name}: no stream was in flight where the fault came, so none could be lost")
        return found

    def recovery_s(self, since: Moment) -> float | None:
        """From then until every request is served as before; None: not before the end of the load."""
        at = recovered_at_s(self.requests, since.at_s, within_s=SERVED_WITHIN_S, at_least=ENOUGH)
        return None if at is None else at - since.at_s

    def return_s(self, since: Moment) -> float | None:
        """From then until a worker that came served its first token; None: none did."""
        first = [
            it.first_token_at_s
            for it in self.requests
            if it.outcome == COMPLETED and it.first_token_at_s is not None and self.came & set(it.worker_ids)
        ]
        return max(0.0, min(first) - since.at_s) if first else None

    def streams_end_s(self) -> float:
        """From the fault to the end of the last of the victims' streams. Raises CouldNotLook."""
        return max(it.ended_at_s for it in self.on_victims()) - self.moment("injected").at_s

    def show(self, evidence: Evidence) -> None:
        """Keep the timeline and every request that was lost."""
        title = f"{self.name.replace('_', ' ')}: what the client saw"
        evidence.svg(title, fault_timeline(title, self.requests, self.load.moments))
        evidence.table(
            "requests that were lost",
            ["request", "sent at s", "ended at s", "outcome", "status", "chunks", "error"],
            [[r.number, r.sent_at_s, r.ended_at_s, r.outcome, r.status, r.chunks, r.error] for r in self.lost],
        )
        ends = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(self.load.outcomes.items()))
        exits = ", ".join(f"{name} with {status}" for name, status in self.ended.items()) or "nothing"
        evidence.text("account", f"sent: {len(self.requests)} = {ends}\nended by itself or with its node: {exits}\n")


def expected(version: str) -> Mapping[str, list[str]]:
    """Of each fault, what errors a client may see. Raises LookupError for a version that the table does not know."""
    return entry_for(EXPECTED, version)["errors"]


def no_loss(loss: Loss) -> None:
    """Nothing was lost, nothing ended, and the same workers are registered as before."""
    require_none_lost(loss.requests)
    assert not loss.ended, f"no process is to end, these ended: {loss.ended}"
    assert not loss.came, f"expected the same instance ids as before, got {len(loss.came)} workers registered again"


def failed_as_known(run: Run, loss: Loss) -> None:
    """Each failed request has an error that the version under test is known to show."""
    known = [re.compile(pattern) for pattern in expected(run.product_version())[loss.name]]
    failed = [request for request in loss.requests if request.outcome == FAILED]
    others = [request for request in failed if not any(each.search(request.error or "") for each in known)]
    assert not others, (
        f"{len(others)} requests failed with errors that {EXPECTED.name} does not list for {loss.name}: {others[0]}"
    )


@dataclass(frozen=True)
class Places:
    """The first two nodes with workers, and where each kind of deployment has its parts."""

    one: NodeSpec
    two: NodeSpec
    spread: Placement = field(init=False)
    two_frontends: Placement = field(init=False)
    etcd_elsewhere: Placement = field(init=False)

    def __post_init__(self) -> None:
        one, two = self.one.name, self.two.name
        object.__setattr__(self, "spread", Placement(one, one, (one,), {one: 1, two: 1}))
        object.__setattr__(self, "two_frontends", Placement(one, one, (two, one), {one: 2}))
        object.__setattr__(self, "etcd_elsewhere", Placement(one, two, (two,), {two: 2}))


def places(inventory: Inventory) -> Places:
    """Raises BringUpFailed where fewer than two nodes have workers."""
    one, two, *_ = nodes_with_workers(inventory)
    return Places(one, two)


@contextmanager
def steady_load(run: Run, deployment: Deployment, urls: list[str] | None = None, **changes: Any) -> Iterator[NodeLoad]:
    """An open loop from the inventory's client node, or from the frontend's where there is none."""
    plan = LoadPlan(
        seed=run.seed,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        within_s=HUNG_AFTER_S,
        rate_per_s=RATE_PER_S,
        arrivals="uniform",
        **changes,
    )
    with load_from_client(run, deployment, plan, urls) as load:
        yield load


def lose(
    run: Run,
    deployment: ManagedDeployment,
    name: str,
    fault: Fault,
    hold: float | Callable[[], object],
    *,
    victims: Sequence[Worker] = (),
    **load: Any,
) -> Loss:
    """The fault comes when all has served for a while, stays for `hold` (seconds, or until it returns), and is healed.

    What ends is then started again, as by a supervisor, and the load goes on for a while. `name` is the fault's in
    expected_faults.yaml. `victims` are workers. Raises CouldNotLook, also when it is not well at first.
    """
    before = make_whole(deployment)
    fault = run.at("module_08.fault", fault, name=name, deployment=deployment)
    with steady_load(run, deployment, **load) as sent:
        _quiet_beginning(sent, name)
        with in_place(fault, sent.mark, healed_within_s=deployment.ready_within_s):
            began_s = time.monotonic()
            pause(hold, "the fault to last") if isinstance(hold, int | float) else hold()
            held_s = time.monotonic() - began_s
        ended, restarted = _supervise(deployment, sent, max(held_s, GOES_ON_S))
        after = registered(deployment)
        result = sent.finish()
    hit_ids = frozenset(before[worker.system_url] for worker in victims)
    known, now = frozenset(before.values()), frozenset(after.values())
    return Loss(name, result, hit_ids, now - known, now & known, ended, restarted)


def make_whole(deployment: ManagedDeployment) -> dict[str, int]:
    """Before a fault everything runs and is registered: instance ids by system URL. Raises CouldNotLook."""
    before = Deadline(deployment.ready_within_s, "all to be well before the fault")
    found = supervise(deployment, before, settles_s=0)
    if found.not_well:
        raise CouldNotLook(found.not_well)
    return registered(deployment)


def _supervise(
    deployment: ManagedDeployment, sent: NodeLoad, settles_s: float
) -> tuple[dict[str, int | None], Moment | None]:
    """What had ended, and when it was ready again."""
    told: list[Moment] = []
    deadline = Deadline(SUPERVISED_S + settles_s, "all to be well again")
    found = supervise(deployment, deadline, settles_s, tell=lambda what: told.append(sent.mark(what)))
    if found.not_well:
        sent.mark("not well")  # what that means to a client is judged
    return found.ended, told[-1] if told else None


def _quiet_beginning(sent: NodeLoad, name: str) -> None:
    requests = sent.wait_until_completed(ENOUGH, Deadline(30, "a quiet beginning"))
    if bad := lost(requests):
        raise CouldNotLook(f"{name}: before the fault {len(bad)} requests were lost already: {bad[0]}")
