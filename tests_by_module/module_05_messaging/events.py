"""A load of known prompts, and the KV events that it was seen to publish."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.clients.answer import Answer, addressed_to
from fixtures.clients.inference import complete
from fixtures.clients.kv_events import KvEvent, decode
from fixtures.clients.nats import Message, Nats
from fixtures.product.deployments.deployment import Deployment

# events leave a worker some milliseconds after the answer has
PUBLISHED_WITHIN_S = 5
# what has not come by then never does: a publisher that NATS has lost is back within this time, or has given up
NEVER_AFTER_S = 20
SENTENCES = (8, 20, 40)
STORED_HEADERS = ("worker", "tokens", "block size", "blocks", "chains published")


@dataclass(frozen=True)
class Asked:
    """A request of the load: what was answered, and by which worker."""

    prompt: str
    answer: Answer

    @property
    def worker_id(self) -> int:
        return next(iter(self.answer.worker_ids))

    @property
    def tokens(self) -> int:
        return self.answer.counted("prompt_tokens") + self.answer.counted("completion_tokens")


@dataclass(frozen=True)
class Published:
    """What a known load was seen to publish: requests, every message meanwhile, and the KV events among them."""

    asked: list[Asked]
    messages: list[Message]
    events: list[KvEvent]
    block_sizes: dict[int, int]
    # blocks that the load filled, and seconds from its last answer until so many were published, or nobody waited on
    blocks: int
    waited_s: float


def ask(deployment: Deployment, prompt: str, *, max_tokens: int = 70, of: int | None = None) -> Asked:
    """One request, which must be answered: without a load there is nothing to see. `of`: the worker that is named.

    Raises AssertionError.
    """
    answer = complete(deployment.endpoint, prompt, max_tokens=max_tokens, ignore_eos=True, nvext=addressed_to(of))
    assert answer.ok and answer.worker_ids, f"a request of the load was not served: {answer.describe()}"
    return Asked(prompt, answer)


def block_sizes(deployment: Deployment) -> dict[int, int]:
    """Tokens in a block of each registered worker that has a model card."""
    return {w.instance_id: w.card["kv_cache_block_size"] for w in deployment.registered_workers() if w.card}


def known_load(deployment: Deployment, sizes: dict[int, int]) -> tuple[list[Asked], int]:
    """Requests of several lengths, none like another, and how many blocks they fill together."""
    asked = [ask(deployment, unique_prompt(sentences)) for sentences in SENTENCES]
    return asked, blocks_filled(asked, sizes)


def blocks_filled(asked: Iterable[Asked], sizes: dict[int, int]) -> int:
    return sum((each.tokens - 1) // sizes[each.worker_id] for each in asked)


def unique_prompt(sentences: int) -> str:
    """A prompt that no cache holds: its first block differs from every other's."""
    return f"{uuid4()} " + "the words of the sea and of the mountain " * sentences


@contextmanager
def everything_on(client: Nats) -> Iterator[list[Message]]:
    """Every message on NATS while this is open, for who judges what is not there.

    Raises CouldNotLook when nothing came and a message of the suite's own is not seen either.
    """
    with client.capture(">") as messages:
        yield messages
        client.flush()
        if messages:
            return
        own = f"acceptance.{uuid4()}"
        client.publish(own)
        client.flush()
        if own not in {message.subject for message in messages}:
            raise CouldNotLook(f"a message that the suite published as {own} is not seen: nothing can be said of NATS")
        messages.clear()


def kv_events(client: Nats, messages: Iterable[Message], subject: str) -> list[KvEvent]:
    """Those among everything that `client` has captured by now."""
    client.flush()
    return [event for message in messages if message.subject == subject for event in decode(message.data)]


def chains(events: Iterable[KvEvent], worker_id: int) -> Iterator[list[int]]:
    """What a worker stored, each chain from its root on: an event's parent is the block after which it goes on."""
    found: list[list[int]] = []
    for event in events:
        if event.worker_id != worker_id or event.kind != "stored":
            continue
        parent = event.parent
        trunk = next((chain for chain in found if parent in chain), None)
        if parent is None or trunk is None:
            found.append(list(event.blocks))
        elif trunk[-1] == parent:
            trunk += event.blocks
        else:
            found.append(trunk[: trunk.index(parent) + 1] + list(event.blocks))
    yield from found


def blocks_expected(tokens: int, block_size: int) -> set[int]:
    """Whole blocks of so many tokens; the last token's own place in the cache may not be filled any more."""
    return {tokens // block_size, (tokens - 1) // block_size}


def unmatched(
    asked: Iterable[Asked], events: list[KvEvent], sizes: dict[int, int]
) -> tuple[list[list[object]], list[str]]:
    """Each request with what was published as stored for it (rows), and those of which it was not right, in words."""
    rows: list[list[object]] = []
    wrong = []
    for request in asked:
        size = sizes[request.worker_id]
        expected = blocks_expected(request.tokens, size)
        lengths = [len(chain) for chain in chains(events, request.worker_id)]
        rows.append([f"{request.worker_id:x}", request.tokens, size, max(expected), str(lengths)])
        if not expected & set(lengths):
            wrong.append(
                f"a request of {request.tokens} tokens fills {max(expected)} blocks of {size}; "
                f"worker {request.worker_id:x} published chains of {lengths or 'no'} stored blocks"
            )
    return rows, wrong


def blocks_stored(events: Iterable[KvEvent]) -> int:
    return sum(len(event.blocks) for event in events if event.kind == "stored")


def misnumbered(events: Iterable[KvEvent]) -> list[str]:
    """Publishers whose messages came twice or out of order, in words. Without any number, that is what is told."""
    numbers: dict[int, list[tuple[int, int]]] = {}
    for event in events:
        if event.publisher is not None and event.sequence is not None:
            # one message may hold several events, each with an id
            numbers.setdefault(event.publisher, []).append((event.sequence, event.event_id))
    if not numbers:
        return ["no numbered KV event was seen: nothing can be said of gaps"]
    return [
        f"publisher {publisher:x} sent {[number for number, _ in seen]}: {_odd(seen)}"
        for publisher, seen in numbers.items()
        if seen != sorted(set(seen))
    ]


def strangers(events: Iterable[KvEvent], registered: Container[int]) -> list[str]:
    """Workers of events that are not `registered` (instance ids), and publishers that are one too many, in words."""
    by_worker: dict[int, set[int]] = {}
    for event in events:
        if event.publisher is not None:
            by_worker.setdefault(event.worker_id, set()).add(event.publisher)
    wrong = [
        f"worker {worker:x} publishes KV events (publisher {_hex(publishers)}) and is not registered in etcd: a "
        "foreign worker or publisher is on this deployment's subject"
        for worker, publishers in by_worker.items()
        if worker not in registered
    ]
    wrong += [
        f"publishers {_hex(publishers)} all speak for worker {worker:x}, which has one: the others are foreign"
        for worker, publishers in by_worker.items()
        if len(publishers) > 1
    ]
    speaks_for: dict[int, set[int]] = {}
    for worker, publishers in by_worker.items():
        for publisher in publishers:
            speaks_for.setdefault(publisher, set()).add(worker)
    return wrong + [
        f"publisher {publisher:x} speaks for several workers: {_hex(workers)}"
        for publisher, workers in speaks_for.items()
        if len(workers) > 1
    ]


def _hex(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:x}" for number in sorted(numbers))


def _odd(seen: list[tuple[int, int]]) -> str:
    return "a message came twice" if len(set(seen)) < len(seen) else "out of order"


def wait_for_blocks(
    heard: Callable[[], list[KvEvent]], count: int, within_s: float = PUBLISHED_WITHIN_S
) -> list[KvEvent]:
    """What is `heard` once `count` blocks were stored, or what there is by then."""

    def look() -> tuple[list[KvEvent] | None, object]:
        events = heard()
        stored = blocks_stored(events)
        return (events if stored >= count else None), f"{stored} blocks"

    try:
        return wait_until(look, Deadline(within_s, f"{count} blocks to be published as stored"))
    except DeadlineExceeded:
        return heard()  # the check judges how many there are
