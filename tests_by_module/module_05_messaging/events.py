"""A load of known prompts, and the KV events that it was seen to publish."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import uuid4

from fixtures.clients.inference import Answer, complete
from fixtures.clients.kv_events import KvEvent, decode
from fixtures.clients.nats import Message, Nats
from fixtures.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.deployments.deployment import Deployment

# events leave a worker some milliseconds after the answer has
PUBLISHED_WITHIN_S = 5


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
        usage = self.answer.usage or {}
        return usage["prompt_tokens"] + usage["completion_tokens"]


def ask(deployment: Deployment, prompt: str, *, max_tokens: int = 70) -> Asked:
    """One request, which must be answered: without a load there is nothing to see. Raises AssertionError."""
    answer = complete(deployment.endpoint, prompt, max_tokens=max_tokens, ignore_eos=True)
    assert answer.ok and answer.worker_ids, f"a request of the load was not served: {answer.describe()}"
    return Asked(prompt, answer)


def unique_prompt(sentences: int) -> str:
    """A prompt that no cache holds: its first block differs from every other's."""
    return f"{uuid4()} " + "the words of the sea and of the mountain " * sentences


def kv_events(messages: Iterable[Message], subject: str) -> list[KvEvent]:
    return [event for message in messages if message.subject == subject for event in decode(message.data)]


def subject_of(deployment: Deployment, topic: str) -> str:
    """The subject of a topic, of the deployment's aggregated workers in their version."""
    dialect = deployment.settings.dialect
    component = dialect.worker_component["aggregated"]
    names = {"namespace": deployment.settings.namespace, "component": component, "endpoint": dialect.worker_endpoint}
    return dialect.events.subjects[topic].format(**names)


def chains(events: Iterable[KvEvent], worker_id: int) -> Iterator[list[int]]:
    """What a worker stored, each chain from its root on: an event's parent is the block after which it goes on."""
    found: list[list[int]] = []
    for event in events:
        if event.worker_id != worker_id or event.kind != "stored":
            continue
        trunk = next((chain for chain in found if event.parent in chain), None) if event.parent is not None else None
        if trunk is None:
            found.append(list(event.blocks))
        elif trunk[-1] == event.parent:
            trunk += event.blocks
        else:
            found.append(trunk[: trunk.index(event.parent) + 1] + list(event.blocks))
    yield from found


def blocks_expected(tokens: int, block_size: int) -> set[int]:
    """Whole blocks of so many tokens; the last token's own place in the cache may not be filled any more."""
    return {tokens // block_size, (tokens - 1) // block_size}


def wait_for_blocks(client: Nats, messages: list[Message], subject: str, count: int) -> list[KvEvent]:
    """The events once `count` blocks were stored, or what there is by then."""

    def look() -> tuple[list[KvEvent] | None, object]:
        client.flush()
        events = kv_events(messages, subject)
        stored = sum(len(event.blocks) for event in events if event.kind == "stored")
        return (events if stored >= count else None), f"{stored} blocks"

    try:
        return wait_until(look, Deadline(PUBLISHED_WITHIN_S, f"{count} blocks to be published as stored"))
    except DeadlineExceeded:
        return kv_events(messages, subject)  # the check judges how many there are
