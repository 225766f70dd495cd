"""KV events that are kept in JetStream, as Dynamo 1.0 to 1.3 can: with a second runtime, beside the one under test."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.dynamo_versions import dialect
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.clients.kv_events import decode
from fixtures.product.deployments.deployment import READY_WITHIN_S
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import (
    Asked,
    ask,
    blocks_expected,
    chains,
    unique_prompt,
)

pytestmark = pytest.mark.needs("managed", "jetstream_runtime", why="settings")

CONSUMED_WITHIN_S = 10


@dataclass
class Durable:
    """A deployment of the older Dynamo, the stream of its KV events, and a request whose blocks are in it."""

    deployment: ManagedDeployment
    stream: str
    asked: Asked


@pytest.fixture(scope="module")
def durable(run: Run) -> Iterator[Durable]:
    runtime = require(run.inventory.cluster.dynamo_jetstream_runtime, "dynamo_jetstream_runtime")
    version = run.inventory.runtime(runtime).packages["ai-dynamo"]
    asked_for = dialect(version).events.durable
    assert asked_for is not None, f"dynamo_jetstream_runtime: ai-dynamo {version} keeps no KV events in JetStream"
    arguments: dict[str, Any] = {"worker_args": asked_for.worker_args, "frontend_args": asked_for.frontend_args}
    if run.inventory.with_role("frontend")[0] == run.inventory.with_role("worker")[0]:
        # left to choose, an older Dynamo takes a link-local IPv6 address where there is one, and cannot listen there
        arguments["extra_env"] = tuple((name, "lo") for name in dialect(version).environment.bind_interface)
    with run.own_deployment(
        "module_05.durable", runtime=runtime, event_plane="nats", router_mode="kv", **arguments
    ) as deployment:
        settings = deployment.settings
        stream = asked_for.stream_of(settings.namespace, settings.dialect.worker_component["aggregated"])
        yield Durable(deployment, stream, ask(deployment, unique_prompt(30)))


@check(
    "M05-16",
    judged="older Dynamo: the stream is on disk and holds the prompt's blocks",
    evidence="the stream",
    by_hand="nats stream info STREAM; nats stream view STREAM",
    causes=[1, 11],
)
def test_durable_kv_events_are_kept_in_a_stream(durable: Durable, evidence: Evidence):
    """The workers' KV events are kept in a stream on disk and match the prompt that was sent."""
    deployment, request = durable.deployment, durable.asked
    size = require(deployment.registered_workers()[0].card, "model card of the worker")["kv_cache_block_size"]
    expected = blocks_expected(request.tokens, size)
    with deployment.nats_client() as client:
        streams = {each.config.name: each for each in client.streams()}
        assert durable.stream in streams, f"there is no stream {durable.stream}; there are {list(streams) or 'none'}"

        def look() -> tuple[list[int] | None, object]:
            events = [event for message in client.stored(durable.stream) for event in decode(message.data)]
            lengths = [len(chain) for chain in chains(events, request.worker_id)]
            return (lengths if expected & set(lengths) else None), f"chains of {lengths or 'no'} stored blocks"

        try:
            lengths = wait_until(look, Deadline(CONSUMED_WITHIN_S, f"a chain of {max(expected)} blocks in the stream"))
        except DeadlineExceeded as error:
            raise AssertionError(f"{request.tokens} tokens were answered; {error}") from None
    stream = streams[durable.stream]
    storage, subjects = stream.config.storage, ", ".join(stream.config.subjects or [])
    evidence.text("stream", f"{durable.stream}\nsubjects {subjects}\nstorage {storage}\nchains {lengths}\n")
    assert storage == "file", f"the stream {durable.stream} is kept in {storage}: a restart of NATS would lose it"


@check(
    "M05-17",
    judged="a durable consumer with nothing pending or unacknowledged",
    evidence="table of consumers",
    by_hand="nats consumer report STREAM",
    causes=[11],
)
def test_the_router_consumes_durable_kv_events(durable: Durable, evidence: Evidence):
    """The frontend's router is a durable consumer of the stream and acknowledges every message."""
    deployment = durable.deployment
    with deployment.nats_client() as client:
        stored = client.stored(durable.stream)
        assert stored, f"nothing is stored in {durable.stream}: there is nothing to consume"

        def look() -> tuple[list | None, object]:
            consumers = client.consumers(durable.stream)
            behind = [
                require(each.num_pending, "count of messages that wait")
                + require(each.num_ack_pending, "count of messages that are not acknowledged")
                for each in consumers
            ]
            return (consumers if consumers and not any(behind) else None), (
                f"{len(consumers)} consumers, {sum(behind)} messages not consumed or not acknowledged"
            )

        try:
            consumers = wait_until(look, Deadline(CONSUMED_WITHIN_S, f"a consumer to be done with {durable.stream}"))
        except DeadlineExceeded as error:
            raise AssertionError(str(error)) from None
    rows = [[each.name, each.config.durable_name, each.delivered.stream_seq, each.num_pending] for each in consumers]
    evidence.table("consumers", ["consumer", "durable name", "delivered up to", "pending"], rows)
    assert all(each.config.durable_name for each in consumers), f"a consumer has no durable name: {rows}"


@check(
    "M05-18",
    judged="SIGKILL and start of the frontend: an earlier prompt is a hit at once",
    evidence="measurements",
    by_hand="kill -KILL frontend, start it again, send the same prompt",
    causes=[8],
)
def test_durable_kv_events_are_replayed_to_a_restarted_router(durable: Durable, measure: Measure):
    """A restarted router reads the stream from its beginning: an earlier prompt is a hit."""
    deployment = durable.deployment
    before = ask(deployment, durable.asked.prompt, max_tokens=2)
    measure("kv_hit_rate_before", before.answer.kv_hit_rate)
    deployment.frontend.kill()
    back = Deadline(READY_WITHIN_S, "the frontend to serve again")
    deployment.frontend.start(back)
    wait_until_serving(deployment, back)
    measure("served_again_s", back.elapsed_s)
    after = ask(deployment, durable.asked.prompt, max_tokens=2)
    measure("kv_hit_rate_after_restart", after.answer.kv_hit_rate)
    measure.judge()
