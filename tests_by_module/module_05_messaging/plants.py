"""Plants that prove the checks of module 05."""

import math
import threading
import time
from itertools import count

import msgpack

from fixtures.basics.deadline import Deadline
from fixtures.clients.nats import Message
from fixtures.clients.nats import Nats as Client
from fixtures.plants.lab import Unreachable
from fixtures.plants.plant import Plant, SettingsPlant, point, with_argv
from fixtures.plants.processes import WithoutPrefixCaching
from fixtures.plants.wire import EventFilter, OnTheWire
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.run_stages import DECLARED
from fixtures.product.services.control_plane import Nats
from fixtures.product.services.dynamo import Worker

STRANGER = 0x57A46E4
HELD_BACK_S = 12
# of the module's own deployments all but "events", which are compared with the run's own
EVERYWHERE = (DECLARED, "module_05.durable", "module_05.requests", "module_05.zmq", "module_05.caches")


def without(nats: Nats, *arguments: str) -> Nats:
    """`nats`, started without some of its arguments."""
    return with_argv(nats, lambda argv: [each for each in argv if each not in arguments])


class NatsWithoutJetstream(Plant):
    """A NATS server is started without JetStream."""

    catches = {
        "M05-01": "JetStream",
        "M05-02": "JetStream",
        "M05-03": "JetStream",
        "M05-04": "JetStream",
        "M05-06": "JetStream",
    }

    @point("module_05.own_nats")
    def bare(self, nats: Nats) -> Nats:
        return without(nats, "--jetstream")


class NatsLosesItsStore(Plant):
    """NATS is started again on an empty store."""

    catches = {"M05-04": "the stream is gone"}

    @point("module_05.restarting")
    def empty(self, nats: Nats) -> Nats:
        nats.node.run(["rm", "-rf", nats.data], deadline=Deadline(10, "the store to go"))
        return nats


class SlowConsumersUnnoticed(Plant):
    """NATS has limits so wide that a subscriber which never reads is not cut off.

    Such a subscriber fills the server's memory instead.
    """

    catches = {"M05-05": "slow consumer"}

    @point("module_05.own_nats")
    def wide(self, nats: Nats) -> Nats:
        nats.config = 'max_pending: 1GB\nwrite_deadline: "10m"\n'
        return nats


class MonitorOfAnotherServer(Plant):
    """What is taken for a NATS server's monitor belongs to another server."""

    catches = {"M05-05": "slow consumer", "M05-06": "/varz counted"}

    def __init__(self) -> None:
        self.other: Nats | None = None

    @point("module_05.own_nats")
    def monitored_elsewhere(self, nats: Nats) -> Nats:
        self.other = Nats("other-nats", nats.node, nats.binary)
        self.other.start(Deadline(30, "another NATS"))
        # health is the only thing that both answer alike
        nats.monitor_port, own = self.other.monitor_port, nats.monitor_port
        return with_argv(nats, lambda argv: [str(own) if each == str(nats.monitor_port) else each for each in argv])

    def undo(self) -> None:
        if self.other:
            self.other.stop(Deadline(10, "the other NATS to end"))


class NatsComesBackElsewhere(Plant):
    """The deployment's NATS is started again on another port than its clients know."""

    catches = {"M05-14": "no KV event", "M05-15": "not served again"}
    failures = (7,)

    @point("module_05.restarting")
    def elsewhere(self, nats: Nats) -> Nats:
        if nats.name != "module-05-nats":
            (nats.port,) = nats.node.free_ports(1)
        return nats


class KvEventsNotPublished(WithoutPrefixCaching):
    """The workers publish no KV events, and serve as before."""

    catches = {
        "M05-07": "kv-events",
        "M05-09": "published chains of no stored blocks",
        "M05-10": "no numbered KV event",
        "M05-11": "was published by both workers",
        "M05-12": "removed_blocks",
        "M05-16": "stored blocks",
        "M05-17": "nothing is stored",
        "M05-18": "kv_hit_rate",
        "M05-26": "no KV event was seen",
        "M05-27": "lost, not late",
    }
    failures = (1,)
    on = EVERYWHERE


class BlockSizeOfOneWorkerDiffers(Plant):
    """Of two workers one has blocks of 32 tokens instead of 64.

    Only where a check asks two workers in turn: the frontend refuses the one that registers second.
    """

    catches = {"M05-11": "block sizes"}
    failures = (3, 4)
    on = ("module_05.caches",)

    def workers(self, workers: list[Worker]) -> list[Worker]:
        with_argv(workers[-1], lambda argv: [*argv, "--block-size", "32"])
        return workers

    def asked(self, workers: list[Worker]) -> list[Worker]:
        return []


class RequestPlaneIgnored(SettingsPlant):
    """Frontend and workers send requests over tcp although the request plane is set to NATS.

    Both sides change: a frontend does not find a worker on another plane.
    """

    catches = {"M05-13": "expected on NATS", "M05-15": "did not go over NATS"}
    on = EVERYWHERE
    frontend = worker = {"request_plane": "tcp"}


class DurableEventsOnlyAtTheRouter(SettingsPlant):
    """The router of the older Dynamo expects KV events in JetStream, and the worker does not put them there."""

    catches = {"M05-16": "stored blocks", "M05-17": "nothing is stored", "M05-18": "kv_hit_rate"}
    failures = (1,)
    nightly = True
    on = ("module_05.durable",)
    worker = {"worker_args": ()}


class StreamForgottenByTheRouter(SettingsPlant):
    """The worker of the older Dynamo puts KV events into JetStream, and the router does not read them there."""

    catches = {"M05-17": "not consumed", "M05-18": "kv_hit_rate"}
    failures = (11,)
    on = ("module_05.durable",)
    frontend = {"frontend_args": ()}


class KvEventSentTwice(OnTheWire):
    """Every KV event is sent a second time.

    A reconnection that repeats what was sent already does the same.
    """

    catches = {"M05-10": "came twice"}
    failures = (7,)

    def __init__(self) -> None:
        super().__init__()
        self._repeated: set[bytes] = set()

    def hears(self, client: Client, message: Message) -> None:
        if message.subject.endswith("kv-events") and message.data not in self._repeated:
            self._repeated.add(message.data)
            client.publish(message.subject, message.data)


class StrangerOnTheSubject(OnTheWire):
    """Somebody else publishes KV events on the deployment's subject, for a worker that is not there."""

    catches = {"M05-26": "is not registered in etcd"}
    speaks_for_more = 1

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count()

    def hears(self, client: Client, message: Message) -> None:
        if not message.subject.endswith("kv-events"):
            return
        envelope = msgpack.unpackb(message.data)
        if envelope["publisher_id"] == STRANGER:
            return
        events = msgpack.unpackb(envelope["payload"])
        for event in events:
            event["worker_id"] += self.speaks_for_more
        told = {"publisher_id": STRANGER, "sequence": next(self._numbers), "payload": msgpack.packb(events)}
        client.publish(message.subject, msgpack.packb(envelope | told))


class StrangerSpeaksForAWorker(StrangerOnTheSubject):
    """Somebody else repeats a worker's KV events, as a publisher of its own that says it is that worker."""

    catches = {"M05-26": "which has one"}
    speaks_for_more = 0


class OneKvEventInTwentyLost(EventFilter):
    """What stands between workers and NATS loses one KV event in 20."""

    catches = {"M05-10": "KV events were lost before they reached NATS"}
    failures = (7, 14)

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def event(self, payload: bytes) -> bytes | None:
        return None if next(self._numbers) % 20 == 15 else payload


class KvEventsLate(EventFilter):
    """What stands between workers and NATS holds KV events back for 12 s, and loses none."""

    catches = {"M05-27": "last_event_after_answer_s"}
    failures = (7,)

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[int, float] = {}

    def event(self, payload: bytes) -> bytes:
        # those that wait behind the first one go on with it
        connection = threading.get_ident()
        if time.monotonic() - self._last.get(connection, -math.inf) > HELD_BACK_S:
            threading.Event().wait(HELD_BACK_S)
        self._last[connection] = time.monotonic()
        return payload


class EventsOnAnOldSubject(OnTheWire):
    """Events appear on the subject that an older Dynamo uses.

    A worker's metrics appear a second time, on the subject that versions up to 1.3 use.
    """

    catches = {"M05-07": "unknown to this version"}
    failures = (12,)

    def hears(self, client: Client, message: Message) -> None:
        if message.subject.endswith(".kv_metrics") and ".component." in message.subject:
            namespace = message.subject.split(".")[1]
            client.publish(f"namespace.{namespace}.kv_metrics", message.data)


class StreamThatNobodyEmpties(OnTheWire):
    """A JetStream stream takes what is published for the namespace, and nobody consumes it.

    An older Dynamo leaves such a stream behind, and it only grows.
    """

    catches = {"M05-08": "this version consumes none"}
    failures = (11,)

    def begins(self, client: Client, namespace: str) -> None:
        client.add_stream(f"namespace-{namespace.replace('_', '-')}-component-backend-kv-events")

    def hears(self, client: Client, message: Message) -> None:
        """Nothing: the stream is there."""


class NatsNotReachedFromOneNode(Unreachable):
    """Processes on the node that clients run on may not connect to NATS."""

    catches = {"M05-24": "client-01 does not reach NATS"}
    on = EVERYWHERE

    def planned(self, deployment: ManagedDeployment) -> None:
        self.forbid(self.client, deployment.settings.nats_url)
