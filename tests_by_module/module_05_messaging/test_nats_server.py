"""The server by hand: what it keeps, delivers again, refuses, survives and tells. Dynamo has no part in it."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, pause, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.nats import Nats as Client
from fixtures.clients.nats import Refused, connected, monitor, stalled_subscriber
from fixtures.product.services.control_plane import Nats
from fixtures.run import Run

pytestmark = pytest.mark.needs("managed", why="next_to")

MESSAGES = 20
ACK_WAIT_S = 1.0
FULL = 5
FLOOD_MB = 24
SEEN_WITHIN_S = 10
STARTS_WITHIN_S = 30
# nats-server writes a consumer's position about ten times a second, and confirms before: killed earlier it may give
# out again what was acknowledged (seen: 3 of 10), which at-least-once delivery allows
POSITION_KEPT_AFTER_S = 1.0


def payloads(count: int) -> list[bytes]:
    return [f"message {number}".encode() for number in range(1, count + 1)]


@check(
    "M05-01",
    judged="20 published before the consumer is made, delivered whole and in order",
    by_hand="nats stream add; nats pub; nats stream view",
)
@pytest.mark.smoke
def test_later_consumer_receives_all_stored_messages_in_order(client: Client):
    """A consumer that is created later receives all earlier messages of a stream, in order."""
    client.add_stream("replay")
    numbers = [client.store("replay.a", each) for each in payloads(MESSAGES)]
    client.add_consumer("replay", "late", ack_wait_s=30)
    received = client.fetch("replay", "late", MESSAGES, SEEN_WITHIN_S)
    client.delete_stream("replay")
    assert numbers == list(range(1, MESSAGES + 1)), f"{MESSAGES} messages were stored, their numbers are {numbers}"
    assert [each.data for each in received] == payloads(MESSAGES), (
        f"{len(received)} of {MESSAGES} messages were replayed, or not in order"
    )


@check(
    "M05-02",
    judged="of four messages two are acknowledged; the other two, and only they, come a second time, marked as such",
    by_hand="nats consumer next --no-ack, twice",
)
def test_what_is_not_acknowledged_is_delivered_again(client: Client):
    """An unacknowledged message is delivered again, marked as a redelivery; an acknowledged one is not."""
    client.add_stream("again")
    for each in payloads(4):
        client.store("again.a", each)
    client.add_consumer("again", "forgetful", ack_wait_s=ACK_WAIT_S)
    first = client.fetch("again", "forgetful", 4, SEEN_WITHIN_S)
    for message in first[:2]:
        client.acknowledge(message)
    second = client.fetch("again", "forgetful", 4, ACK_WAIT_S * 3)
    client.delete_stream("again")
    assert len(first) == 4, f"{len(first)} of 4 messages were delivered at all"
    assert [(each.sequence, each.delivered) for each in second] == [(3, 2), (4, 2)], (
        "messages 3 and 4 were not acknowledged and are due a second time; delivered again were "
        f"{[(each.sequence, each.delivered) for each in second]} (number, times)"
    )


@check(
    "M05-03",
    judged="limit 5, the sixth is refused with the limit's name, five are kept",
    evidence="the refusal",
    by_hand="nats stream add --max-msgs=5 --discard=new",
    causes=[11],
)
def test_a_full_stream_refuses_and_says_so(client: Client, evidence: Evidence):
    """A full stream refuses new messages, gives the reason, and keeps what it has."""
    client.add_stream("full", max_messages=FULL)
    for each in payloads(FULL):
        client.store("full.a", each)
    try:
        number = client.store("full.a", b"one too many")
        refusal = None
    except Refused as error:
        refusal = str(error)
    kept = [each.data for each in client.stored("full")]
    client.delete_stream("full")
    evidence.text("refusal", refusal or "none")
    assert refusal is not None, f"a stream limited to {FULL} messages took one more, as number {number}"
    assert "maximum messages exceeded" in refusal, f"the refusal does not name the limit: {refusal}"
    assert kept == payloads(FULL), f"the full stream lost what it had: {len(kept)} of {FULL} messages are left"


@check(
    "M05-04",
    judged="SIGKILL and start: stream, messages, and the position of a second ago are there",
    evidence="measurement",
    by_hand="kill -KILL nats-server; start it again; nats stream info",
)
def test_a_stream_on_disk_survives_the_server(run: Run, own_nats: Nats, measure: Measure):
    """A restarted server still has its streams, messages and consumer positions."""
    url = own_nats.node.reach(own_nats.url)
    with connected(url) as client:
        client.add_stream("kept")
        for each in payloads(MESSAGES):
            client.store("kept.a", each)
        client.add_consumer("kept", "reader", ack_wait_s=30)
        for message in client.fetch("kept", "reader", MESSAGES // 2, SEEN_WITHIN_S):
            client.acknowledge(message)
    pause(POSITION_KEPT_AFTER_S, "the consumer's position to be on disk")
    own_nats.kill()
    run.at("module_05.restarting", own_nats)
    back = Deadline(STARTS_WITHIN_S, "NATS to be back")
    own_nats.start(back)
    measure("nats_back_s", back.elapsed_s)
    with connected(url) as client:
        streams = [each.config.name for each in client.streams()]
        assert "kept" in streams, f"the stream is gone after the restart; there are {streams or 'none'}"
        stored = [each.data for each in client.stored("kept")]
        rest = [each.data for each in client.fetch("kept", "reader", MESSAGES, 2)]
        client.delete_stream("kept")
    assert stored == payloads(MESSAGES), f"{len(stored)} of {MESSAGES} messages survived"
    assert rest == payloads(MESSAGES)[MESSAGES // 2 :], (
        f"the consumer had acknowledged {MESSAGES // 2} of {MESSAGES} and is to get the others in order, it got {rest}"
    )
    measure.judge()


@check(
    "M05-05",
    judged="24 MB to a subscriber that never reads: `slow_consumers` moves, another subscriber is served",
    evidence="measurement",
    by_hand="curl MONITOR/varz | grep slow_consumers",
)
def test_a_slow_consumer_is_seen(own_nats: Nats, client: Client, measure: Measure):
    """A subscriber that does not read is disconnected and counted, while others are served."""
    watched = own_nats.node.reach(own_nats.monitor_url)
    before = monitor(watched, "varz")["slow_consumers"]
    with stalled_subscriber(own_nats.node.reach(own_nats.url), "flood"), client.capture("beside") as served:
        for _ in range(FLOOD_MB * 4):
            client.publish("flood", b"x" * 256_000)
        client.publish("beside", b"still there")
        client.flush()

        def look() -> tuple[int | None, object]:
            now = monitor(watched, "varz")["slow_consumers"] - before
            return now or None, "slow_consumers of /varz has not moved"

        try:
            seen = wait_until(look, Deadline(SEEN_WITHIN_S, "the slow consumer to be counted"))
        except DeadlineExceeded as error:
            raise AssertionError(f"{FLOOD_MB} MB were sent to a subscriber that never reads: {error}") from None
    measure("slow_consumers", seen)
    measure.judge()
    assert [each.data for each in served] == [b"still there"], (
        f"another subscriber was to get 1 message, it got {len(served)}"
    )


@check(
    "M05-06",
    judged="`/varz`, `/jsz`, `/connz` against what the client did",
    evidence="table",
    by_hand="curl MONITOR/varz; curl MONITOR/jsz?streams=true; curl MONITOR/connz?subs=1",
)
def test_the_monitor_agrees_with_the_client(own_nats: Nats, client: Client, evidence: Evidence):
    """/varz, /jsz and /connz report what the client did: messages sent, stored, and subscriptions."""
    watched = own_nats.node.reach(own_nats.monitor_url)
    client.add_stream("told")
    client.flush()
    before = monitor(watched, "varz")["in_msgs"]
    for _ in range(MESSAGES):
        client.publish("nobody.listens")
    client.flush()
    counted = monitor(watched, "varz")["in_msgs"] - before
    for each in payloads(MESSAGES):
        client.store("told.a", each)
    with client.capture("some.subject"):
        connections = monitor(watched, "connz?subs=1")["connections"]
    accounts = monitor(watched, "jsz?streams=true").get("account_details") or []
    client.delete_stream("told")
    streams = {s["name"]: s["state"]["messages"] for account in accounts for s in account.get("stream_detail") or []}
    mine = next((each for each in connections if each["cid"] == client.client_id), None)
    rows = [["/varz in_msgs", MESSAGES, counted], ["/jsz messages in the stream", MESSAGES, streams.get("told")]]
    rows.append(["/connz my subscriptions", "some.subject", " ".join((mine or {}).get("subscriptions_list") or [])])
    evidence.table("monitor", ["page", "done", "told"], rows)
    assert counted == MESSAGES, f"{MESSAGES} messages were sent, /varz counted {counted}"
    assert streams.get("told") == MESSAGES, f"{MESSAGES} messages were stored, /jsz reports {streams}"
    assert mine is not None, f"/connz does not list this client, number {client.client_id}"
    assert "some.subject" in (mine.get("subscriptions_list") or []), f"/connz reports other subscriptions: {mine}"
