"""Requests over NATS, and what the loss of NATS does on each plane."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from fixtures.clients.inference import Answer, complete, stream
from fixtures.clients.nats import connected
from fixtures.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import ask, kv_events, subject_of, unique_prompt

pytestmark = pytest.mark.needs("managed")

REQUESTS = 4
# NATS goes while this stream runs: 600 tokens take the mocker 3 to 4 s
STREAM_TOKENS = 600
UNDER_WAY_S = 0.5
CLIENT_WAITS_S = 3
BACK_WITHIN_S = 20


@pytest.fixture(scope="module")
def requests_over_nats(run: Run) -> Iterator[Deployment]:
    """A deployment whose requests go over NATS as well as its events."""
    with run.own_deployment("requests", request_plane="nats", event_plane="nats", sabotage=run.sabotage) as deployment:
        yield deployment


@pytest.mark.check("M05-13", by_hand="nats sub '*.generate-*'")
def test_requests_over_nats_go_to_the_worker_s_subject(requests_over_nats: Deployment, evidence):
    """On the request plane nats each request is one message to the subject of the worker that answers it."""
    settings = requests_over_nats.settings
    names = {"namespace": settings.namespace, "component": settings.dialect.worker_component["aggregated"]}
    with connected(requests_over_nats.reach(settings.nats_url)) as client, client.capture(">") as messages:
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
    assert counts == expected, f"answered by subject: {expected}; messages seen there: {counts}: not sent over NATS"


def lose_nats(run: Run, deployment: Deployment) -> tuple[Answer, list[Answer], Deadline]:
    """Kill NATS under a running stream, ask for more without it, start it again: (stream, asked meanwhile, since)."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, deployment.endpoint, unique_prompt(2), max_tokens=STREAM_TOKENS, ignore_eos=True)
        under_way = Deadline(UNDER_WAY_S, "the stream to be under way")
        under_way.pause(UNDER_WAY_S)
        assert not running.done(), "the stream ended before NATS was taken away"
        deployment.nats.kill()
        without = [
            complete(deployment.endpoint, f"without NATS: {uuid4()}", max_tokens=1, timeout_s=CLIENT_WAITS_S)
            for _ in range(2)
        ]
        streamed = running.result()
    run.sabotage.restarting(deployment.nats)
    deployment.nats.start(Deadline(BACK_WITHIN_S, "NATS to be back"))
    return streamed, without, Deadline(BACK_WITHIN_S, "all to be as before the loss of NATS")


def require_whole(streamed: Answer) -> None:
    tokens = (streamed.usage or {}).get("completion_tokens")
    assert streamed.ok and tokens == STREAM_TOKENS, (
        f"a stream that ran when NATS was lost did not complete: {streamed.describe()}, {tokens} tokens"
    )


@pytest.mark.check("M05-14", by_hand="kill -KILL nats-server during a stream; start it again", causes=[7])
def test_nats_lost_with_requests_over_tcp_costs_no_request(run: Run, measure, evidence):
    """With requests over tcp the loss of NATS costs no request; KV events are published again when it is back."""
    with run.own_deployment("events", request_plane="tcp", event_plane="nats") as deployment:
        subject = subject_of(deployment, "kv-events")
        streamed, without, back = lose_nats(run, deployment)
        with connected(deployment.reach(deployment.nats.url)) as client, client.capture(subject) as messages:

            def look() -> tuple[bool | None, object]:
                ask(deployment, unique_prompt(8), max_tokens=2)
                client.flush()
                return (True if kv_events(messages, subject) else None), "no KV event since NATS is back"

            try:
                wait_until(look, back, every_s=0.2)
            except DeadlineExceeded as error:
                raise AssertionError(f"{error}: the worker is no longer connected to NATS") from None
        measure("kv_events_again_s", back.elapsed_s)
        alive = [each.name for each in (deployment.frontend, *deployment.workers) if not each.is_alive()]
    evidence.text("without NATS", "\n".join(each.describe() for each in without))
    require_whole(streamed)
    failed = [each.describe() for each in without if not each.ok]
    assert not failed, f"{len(failed)} of {len(without)} requests over tcp failed without NATS: {failed[0]}"
    assert not alive, f"these ended when NATS was lost: {alive}"
    measure.judge()


@pytest.mark.check("M05-15", by_hand="kill -KILL nats-server during a stream; start it again", causes=[23])
def test_nats_lost_with_requests_over_nats_recovers(run: Run, requests_over_nats: Deployment, measure, evidence):
    """With requests over NATS new ones fail while it is away, running streams complete, and service comes back."""
    deployment = requests_over_nats
    streamed, without, back = lose_nats(run, deployment)

    def look() -> tuple[Answer | None, object]:
        answer = complete(deployment.endpoint, f"again: {uuid4()}", max_tokens=1, timeout_s=CLIENT_WAITS_S)
        return (answer if answer.ok else None), answer.describe()

    try:
        wait_until(look, back, every_s=0.1)
    except DeadlineExceeded as error:
        raise AssertionError(f"{error}: not served again after NATS came back") from None
    measure("served_again_s", back.elapsed_s)
    evidence.text("without NATS", "\n".join(each.describe() for each in without))
    require_whole(streamed)
    assert not any(each.ok for each in without), "a request was answered without NATS: it did not go over NATS"
    measure.judge()
