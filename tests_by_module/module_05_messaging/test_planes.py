"""Requests over NATS, and what the loss of NATS does on each plane."""

from collections.abc import Iterator

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import ask, unique_prompt
from tests_by_module.module_05_messaging.outage import record_loss

REQUESTS = 4


@pytest.fixture(scope="module")
def requests_over_nats(run: Run) -> Iterator[Deployment]:
    """A deployment of its own whose requests go over NATS as well as its events, or the one that runs already."""
    if not run.inventory.cluster.dynamo_managed:
        if run.deployment().settings.request_plane != "nats":
            raise NotOffered("requests do not go over NATS: DYN_REQUEST_PLANE=nats of frontend and workers does that")
        yield run.deployment()
        return
    with run.own_deployment("module_05.requests", request_plane="nats", event_plane="nats") as deployment:
        yield deployment


@check(
    "M05-13",
    judged="as many messages on the subject as requests that worker answered",
    evidence="table",
    by_hand="nats sub '*.generate-*'",
)
def test_requests_over_nats_go_to_the_worker_s_subject(requests_over_nats: Deployment, evidence: Evidence):
    """On the request plane nats each request is one message to the subject of the worker that answers it."""
    settings = requests_over_nats.settings
    names = {"namespace": settings.namespace, "component": settings.dialect.worker_component["aggregated"]}
    with requests_over_nats.nats_client() as client, client.capture(">") as messages:
        asked = [ask(requests_over_nats, unique_prompt(4), max_tokens=4) for _ in range(REQUESTS)]
        client.flush()
        seen = [each.subject for each in messages]
    expected: dict[str, int] = {}
    for each in asked:
        subject = settings.dialect.events.request_subject.format(
            **names, endpoint=settings.dialect.worker_endpoint, id=f"{each.worker_id:x}"
        )
        expected[subject] = expected.get(subject, 0) + 1
    counts = {subject: seen.count(subject) for subject in expected}
    evidence.table("requests", ["subject", "answered", "messages"], [[s, n, counts[s]] for s, n in expected.items()])
    off = [subject for subject, answered in expected.items() if requests_over_nats.is_off(counts[subject], answered)]
    assert not off, f"expected on NATS, one message for each answer: {expected}; got {counts}"


@check(
    "M05-14",
    judged="SIGKILL under 8 concurrent requests once a stream runs, start 3 s later: each request by when it was "
    "sent, and the KV events of that time, against `faults.yaml`",
    evidence="measurements, table",
    by_hand="kill -KILL nats-server under load; start it again",
    causes=[7],
)
@pytest.mark.needs("managed", why="breaks")
@pytest.mark.long_wait
def test_nats_lost_with_requests_over_tcp_costs_no_request(run: Run, measure: Measure, evidence: Evidence):
    """With requests over TCP, the loss of NATS costs no request, and KV events are recovered."""
    with run.own_deployment("module_05.events", request_plane="tcp", event_plane="nats") as deployment:
        seen, wrong = record_loss(run, deployment, measure, evidence)
    measure("kv_events_again_s", seen.kv_events_again_s)
    Findings(wrong).judge()
    measure.judge()


@check(
    "M05-15",
    judged="SIGKILL of nats-server under 8 concurrent requests: running streams complete, nothing new is answered "
    "meanwhile, service comes back",
    evidence="measurements, table",
    by_hand="kill -KILL nats-server under load; start it again",
    causes=[23],
)
@pytest.mark.needs("managed", why="breaks")
def test_nats_lost_with_requests_over_nats_recovers(
    run: Run, requests_over_nats: ManagedDeployment, measure: Measure, evidence: Evidence
):
    """With requests over NATS, its loss delays or fails new requests only, and service comes back."""
    seen, wrong = record_loss(run, requests_over_nats, measure, evidence)
    measure("kv_events_again_s", seen.kv_events_again_s)
    Findings(wrong).judge()
    measure.judge()
