"""The event plane zmq: each worker publishes by itself, on every address of its node, and tells etcd where."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.errors import BringUpFailed, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.clients import prometheus
from fixtures.clients.inference import InferenceEndpoint, complete
from fixtures.clients.kv_events import KvEvent, lost_events
from fixtures.clients.nats import Message
from fixtures.clients.zmq_events import NobodyPublishes, zmq_kv_events
from fixtures.product.deployments.deployment import READY_WITHIN_S, Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.dynamo import Frontend
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import (
    PUBLISHED_WITHIN_S,
    STORED_HEADERS,
    Asked,
    ask,
    block_sizes,
    everything_on,
    known_load,
    misnumbered,
    unique_prompt,
    unmatched,
    wait_for_blocks,
)
from tests_by_module.module_05_messaging.outage import record_loss

pytestmark = pytest.mark.needs("private_network")

PUBLISHERS_CHECK = "M05-19"
WORKERS = 2


@dataclass(frozen=True)
class OverZmq:
    """A deployment with events over zmq, a known load, its KV events, and all that was on NATS meanwhile."""

    deployment: Deployment
    workers: int
    addresses: dict[str, str]
    asked: list[Asked]
    events: list[KvEvent]
    block_sizes: dict[int, int]
    # None where there is no NATS
    on_nats: list[Message] | None

    @property
    def managed(self) -> ManagedDeployment:
        """For checks that start and end parts of it."""
        assert isinstance(self.deployment, ManagedDeployment)
        return self.deployment


@contextmanager
def deployment_over_zmq(run: Run) -> Iterator[tuple[Deployment, int]]:
    """One of its own with so many workers, or the one that runs already. Raises NotOffered where that is on NATS."""
    if run.inventory.cluster.dynamo_managed:
        planes: dict[str, Any] = {"event_plane": "zmq", "request_plane": "tcp", "router_mode": "kv"}
        with run.own_deployment("module_05.zmq", workers=WORKERS, **planes) as own:
            yield own, WORKERS
        return
    running = run.deployment()
    if running.settings.event_plane != "zmq":
        raise NotOffered("events do not go over zmq: DYN_EVENT_PLANE=zmq of frontend and workers puts them there")
    yield running, len(running.registered_workers())


@pytest.fixture(scope="module")
def over_zmq(run: Run) -> Iterator[OverZmq]:
    """Raises BringUpFailed when a worker's publisher is not where etcd says."""
    with ExitStack() as stack:
        deployment, workers = stack.enter_context(deployment_over_zmq(run))
        try:
            channels = deployment.event_channels("kv-events", PUBLISHED_WITHIN_S)
        except DeadlineExceeded as error:
            raise BringUpFailed(PUBLISHERS_CHECK, str(error)) from None
        try:
            seen = stack.enter_context(zmq_kv_events(deployment.reach(each.address) for each in channels))
        except NobodyPublishes as error:
            told = ", ".join(f"{each.key.name}: {each.address}" for each in channels)
            raise BringUpFailed(PUBLISHERS_CHECK, f"{error}; etcd says {told}") from None
        sizes = block_sizes(deployment)
        with ExitStack() as meanwhile:
            messages = None
            if deployment.settings.nats_url:
                messages = meanwhile.enter_context(everything_on(meanwhile.enter_context(deployment.nats_client())))
            asked, blocks = known_load(deployment, sizes)
            events = wait_for_blocks(seen.look, blocks)
        addresses = {f"{each.worker_id:x}": each.address for each in channels}
        yield OverZmq(deployment, workers, addresses, asked, events, sizes, messages)


@check(
    "M05-19",
    judged="each worker has registered one, and it answers there; the others are blocked by it",
    evidence="table",
    by_hand="etcdctl get --prefix v1/event_channels/",
    causes=[27],
)
def test_publishers_are_where_etcd_says(over_zmq: OverZmq, evidence: Evidence):
    """Each worker registers a publisher of KV events, and a ZMQ publisher answers at that address."""
    evidence.table("publishers", ["worker", "address"], [list(each) for each in over_zmq.addresses.items()])
    assert len(over_zmq.addresses) == over_zmq.workers, (
        f"there are {over_zmq.workers} workers, publishers are {over_zmq.addresses}"
    )


@check(
    "M05-20",
    judged="all that is on NATS under a load, none names the namespace",
    evidence="subjects",
    by_hand="nats sub '>'",
)
def test_with_events_over_zmq_nothing_is_on_nats(over_zmq: OverZmq, evidence: Evidence):
    """With events over zmq and requests over tcp, the deployment sends nothing over NATS."""
    if over_zmq.on_nats is None:
        raise NotOffered("dynamo_nats_url is not declared: this deployment has no NATS")
    namespace = over_zmq.deployment.settings.namespace
    mine = sorted({each.subject for each in over_zmq.on_nats if namespace in each.subject})
    evidence.text("subjects", "\n".join(sorted({each.subject for each in over_zmq.on_nats})) or "none")
    assert over_zmq.asked, "no load: nothing could have been published"
    assert not mine, f"expected nothing of {namespace} with events over zmq, and on NATS there is {', '.join(mine)}"


@check(
    "M05-21",
    judged="off the workers' ZMQ publishers: one chain of blocks for each request, no number missing or twice",
    evidence="table by request",
    by_hand="subscribe to the addresses of v1/event_channels with a ZMQ SUB socket",
    causes=[1],
)
def test_kv_events_over_zmq_match_the_prompts(over_zmq: OverZmq, evidence: Evidence):
    """Over zmq each request's blocks are published, as many as its tokens fill, without gaps in numbering."""
    rows, wrong = unmatched(over_zmq.asked, over_zmq.events, over_zmq.block_sizes)
    evidence.table("stored", STORED_HEADERS, rows)
    wrong += lost_events(over_zmq.events) + misnumbered(over_zmq.events)
    Findings(wrong).judge()


@contextmanager
def second_frontend(deployment: ManagedDeployment) -> Iterator[Frontend]:
    """One more frontend of the deployment, serving: what its router knows it was told, since it has routed nothing."""
    first = deployment.frontend
    assert first is not None
    second = Frontend("zmq-frontend-2", first.node, first.runtime, first.settings)
    try:
        second.start(Deadline(READY_WITHIN_S, "the second frontend"))
        serves = Deadline(READY_WITHIN_S, "the second frontend to serve")
        endpoint = through(deployment, second)
        wait_until(lambda: (complete(endpoint, "ready?", max_tokens=1).ok or None, "not yet"), serves)
        yield second
    finally:
        if second.is_alive():
            second.kill()


def through(deployment: Deployment, frontend: Frontend) -> InferenceEndpoint:
    return InferenceEndpoint(frontend.node.reach(frontend.url), deployment.settings.model_name)


@check(
    "M05-22",
    judged="a second frontend applies the events of a prompt that the first has routed, and predicts its hit",
    evidence="measurements",
    by_hand="two frontends: send a prompt to one, then to the other",
    causes=[1, 14],
)
@pytest.mark.needs("managed", why="next_to")
def test_prefix_hits_work_over_zmq(over_zmq: OverZmq, measure: Measure):
    """A router applies events received over zmq: a prompt that another frontend routed is a hit."""
    deployment, prompt = over_zmq.managed, unique_prompt(20)
    name = require(deployment.settings.dialect.metrics.kv_events_applied, "count of applied KV events")
    with second_frontend(deployment) as second:
        metrics = f"{second.node.reach(second.url)}/metrics"

        def applied() -> float:
            return sum(value for _, value in prometheus.scrape(metrics).counter(name, status="ok"))

        before = applied()
        ask(deployment, prompt, max_tokens=2)
        with suppress(DeadlineExceeded):  # how many there are is judged below
            applies = Deadline(PUBLISHED_WITHIN_S, "an event to be applied")
            wait_until(lambda: (applied() > before or None, "none"), applies)
        measure("kv_events_applied", applied() - before)
        again = complete(through(deployment, second), prompt, max_tokens=2)
        measure("kv_hit_rate_again", again.kv_hit_rate)
    measure.judge()


@check(
    "M05-23",
    judged="SIGKILL of nats-server under load: each request against `faults.yaml`; KV events always reach the router",
    evidence="measurement, table",
    by_hand="kill -KILL nats-server under load; start it again",
    causes=[7],
)
@pytest.mark.needs("managed", why="breaks")
def test_nats_lost_with_events_over_zmq_costs_nothing(
    run: Run, over_zmq: OverZmq, measure: Measure, evidence: Evidence
):
    """With events over zmq and requests over tcp, the loss of NATS costs no request and no KV event."""
    _, wrong = record_loss(run, over_zmq.managed, measure, evidence)
    Findings(wrong).judge()
    measure.judge()
