"""Fixtures of module 05."""

from collections.abc import Iterator
from functools import partial

import pytest

from fixtures.basics.deadline import Deadline
from fixtures.clients.nats import Nats as Client
from fixtures.clients.nats import connected
from fixtures.cluster.inventory.model import Inventory
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.services.control_plane import Nats
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import (
    NEVER_AFTER_S,
    PUBLISHED_WITHIN_S,
    Published,
    block_sizes,
    everything_on,
    known_load,
    kv_events,
    wait_for_blocks,
)

STARTS_WITHIN_S = 30
# so little that a subscriber which does not read is noticed after some MB
SLOW_CONSUMER_LIMITS = 'max_pending: 1MB\nwrite_deadline: "1s"\n'


@pytest.fixture(scope="package")
def own_nats(run: Run, inventory: Inventory) -> Iterator[Nats]:
    """A NATS server of the module's own, as Dynamo's is started, to be treated roughly."""
    equipment = run.equipment()[inventory.with_role("nats")[0].name]
    server = Nats("module-05-nats", equipment.node, equipment.server("nats"), config=SLOW_CONSUMER_LIMITS)
    server = run.at("module_05.own_nats", server)
    server.start(Deadline(STARTS_WITHIN_S, "a NATS server of the module's own"))
    yield server
    server.stop(Deadline(STARTS_WITHIN_S, f"{server.name} to end"))


@pytest.fixture
def client(own_nats: Nats) -> Iterator[Client]:
    """A client of the module's own server."""
    with connected(own_nats.node.reach(own_nats.url)) as client:
        yield client


@pytest.fixture(scope="package")
def published(deployment: Deployment) -> Published:
    """Requests of several lengths, none like another, to the shared deployment, with everything on NATS captured."""
    sizes = block_sizes(deployment)
    with deployment.nats_client() as client, everything_on(client) as messages:
        asked, blocks = known_load(deployment, sizes)
        heard = partial(kv_events, client, messages, deployment.subject("kv-events"))
        # longer than they may take: what comes late is told from what never comes, and zmq has none of it on NATS
        patience_s = NEVER_AFTER_S if deployment.settings.event_plane == "nats" else PUBLISHED_WITHIN_S
        waiting = Deadline(patience_s, "KV events")
        events = wait_for_blocks(heard, blocks, patience_s)
        return Published(asked, list(messages), events, sizes, blocks, waiting.elapsed_s)
