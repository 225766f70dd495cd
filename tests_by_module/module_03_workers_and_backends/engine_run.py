"""One engine as it was seen: it is brought up, asked all that the contract holds, and ended. Judged elsewhere."""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook, NotOffered, ProcessEnded
from fixtures.basics.versioned_table import covers
from fixtures.clients import prometheus
from fixtures.clients.inference import Answer, InferenceEndpoint, complete, stream
from fixtures.clients.kv_events import KvEvent, kv_events
from fixtures.cluster.inventory.model import RuntimeSpec
from fixtures.cluster.probes.probe import families, footprint, processor_s
from fixtures.load.from_here import RequestRecord, run_load
from fixtures.load.plan import ordinary_prompt, plan
from fixtures.load.traces import Traces
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.stand_ins import called
from fixtures.product.services.dynamo import Worker
from tests_by_module.module_03_workers_and_backends.contract import EngineFacts, WrongRequest, contract
from tests_by_module.module_03_workers_and_backends.oracle import Compared

# far more than is generated before anybody notices that the client has left
MANY_TOKENS, LEAVES_AFTER = 2000, 3
NOTICED_WITHIN_S, STREAM_WITHIN_S, EVENTS_WITHIN_S, ANSWERS_WITHIN_S = 10, 120, 5, 60
KV_BLOCKS = 3
# of a stream that is under way at SIGTERM: shorter than the time in which a worker serves on (1.6: 5 s)
STREAM_S, LEAST_TOKENS, MOST_TOKENS = 2.0, 20, 300


@dataclass
class StartUp:
    """Seconds from the start of the worker's process; None for a phase that the engine's log does not tell."""

    imported_s: float | None
    loaded_s: float | None
    registered_s: float
    first_token_s: float


@dataclass
class Ended:
    """A worker that got SIGTERM in the middle of a stream, with times since then; None: not within its time."""

    stream: RequestRecord
    asked_tokens: int
    unregistered_s: float | None
    ended_s: float | None
    exit_status: int | None
    log: str


@dataclass
class Column:
    """All that was seen of one engine. Answers are by the contract's names of prompts and wrong requests."""

    runtime: RuntimeSpec
    # others send to its workers as well
    shared: bool
    # of an engine that the suite has started
    argv: list[str] = field(default_factory=list)
    startup: StartUp = field(init=False, repr=False)
    # processor seconds: its processes' until it served, and the controller's meanwhile
    start_processor_s: float = field(init=False, repr=False)
    controller_s: float = field(init=False, repr=False)
    # seconds: all that was done with it, and of that until its deployments served
    took_s: float = field(init=False, repr=False)
    starts_s: float = field(init=False, repr=False)
    taken: dict[str, Any] = field(default_factory=dict)
    stood_in: list[str] = field(default_factory=list)  # names of its kernels for which PyTorch computed
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    no_tokenizer: str | None = None  # why the model's own has not counted them
    whole: dict[str, Answer] = field(default_factory=dict)
    streamed: dict[str, Answer] = field(default_factory=dict)
    # by "requests" and the contract's names of an engine's own metrics
    counted: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, Answer] = field(default_factory=dict)
    # a good request after those that the engine must refuse itself (True), and after the others
    after_refusals: dict[bool, Answer] = field(default_factory=dict)
    ended_by_refusals: ProcessEnded | None = None
    left: RequestRecord = field(init=False, repr=False)  # there once `look` is through
    busy_before: bool = False
    idle_after_s: float | None = None
    block_size: int = 0
    events: list[KvEvent] | None = None
    # with the reference; an error where its answers cannot be compared
    compared: Compared | CouldNotLook | None = None
    ended: Ended = field(init=False, repr=False)  # there once `end` is through

    @property
    def name(self) -> str:
        return self.runtime.name

    def require_tokenizer(self) -> None:
        """Raises NotOffered."""
        if self.no_tokenizer:
            raise NotOffered(self.no_tokenizer)

    @property
    def facts(self) -> EngineFacts:
        return contract().engines[self.runtime.engine]

    def ends_on(self, wrong_request: str) -> str | None:
        """Why a wrong request is not sent to it: this version is known to end on it."""
        versions, version = self.facts.ends_on.get(wrong_request), self.runtime.packages.get(self.runtime.engine)
        if versions is None or version is None or not covers(versions, version):
            return None
        return f"not sent: {self.runtime.engine} {version} is known to end on it"

    def wrong_requests(self, *, by_engine: bool) -> dict[str, WrongRequest]:
        """Those that are sent to it; for the others the reason stands in their answers' place."""
        there = {name: each for name, each in contract().wrong_requests.items() if each.by_engine == by_engine}
        self.refusals |= {name: Answer(error=why) for name in there if (why := self.ends_on(name))}
        return {name: each for name, each in there.items() if not self.ends_on(name)}


def look(deployment: ManagedDeployment, spec: RuntimeSpec, seed: int, salt: str) -> Column:
    """Everything but its end, which is `end`, and what may end it before, `be_refused` by the engine."""
    (worker,) = deployment.workers
    pid = worker.require_process().pgid
    family = families(worker.node, [pid], [])[pid]
    taken = footprint(worker.node, [pid])[pid]
    column = Column(spec, deployment.shared, family[0]["argv"], taken)
    column.start_processor_s = processor_s(worker.node, [each["pid"] for each in family])
    column.controller_s = deployment.controller_s
    column.startup = start_of(deployment, worker, spec, taken["began_at"])
    _question(column, deployment, seed)
    _store(column, deployment, seed, salt)
    return column


def look_at_running(deployment: Deployment, spec: RuntimeSpec, seed: int, salt: str) -> Column:
    """What can be asked of an engine that runs already."""
    column = Column(spec, deployment.shared)
    _question(column, deployment, seed)
    _store(column, deployment, seed, salt)
    be_refused(column, deployment, by_engine=True)
    return column


def _question(column: Column, deployment: Deployment, seed: int) -> None:
    _ask(column, deployment)
    be_refused(column, deployment, by_engine=False)
    _leave(column, deployment, seed)


def start_of(deployment: ManagedDeployment, worker: Worker, spec: RuntimeSpec, began_at: float) -> StartUp:
    """By its log and the phases of its deployment; `began_at` is when its process began (Unix time, s)."""
    facts, log = contract().engines[spec.engine], worker.log()
    assert worker.launched_at is not None
    registered_s = deployment.registered_at - worker.launched_at
    first_token_s = next(phase.duration_s for phase in deployment.phases if phase.what == "first token")
    imported_at, loaded_at = (_told_at(log, line) for line in (facts.imported, facts.loaded))
    return StartUp(
        imported_at and imported_at - began_at,
        loaded_at and loaded_at - began_at,
        registered_s,
        registered_s + first_token_s,
    )


def _told_at(log: str, line: str | None) -> float | None:
    """Unix time of the first line of a log that matches, s."""
    found = line and re.search(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)Z.*{line}", log)
    return datetime.fromisoformat(f"{found[1]}+00:00").timestamp() if found else None


def _pages(deployment: Deployment) -> list[prometheus.Metrics]:
    """Those of all workers that serve one."""
    urls = [worker.system_url for worker in deployment.registered_workers() if worker.system_url]
    return [prometheus.scrape(deployment.reach(f"{url}/metrics")) for url in urls]


def _counts(column: Column, deployment: Deployment) -> dict[str, float]:
    """Of all workers together."""
    dialect, pages = deployment.settings.dialect, _pages(deployment)
    name, endpoint = dialect.metrics.worker_requests, dialect.worker_endpoint
    counts = {"requests": sum(page.total_or_zero(name, dynamo_endpoint=endpoint) for page in pages)}
    for what, metric in (column.facts.metrics or {}).items():
        if what != "running":
            counts[what] = sum(page.total_or_zero(metric) for page in pages)
    return counts


def _in_hand(column: Column, deployment: Deployment) -> float:
    """Requests that workers have, and the engine where it tells."""
    dialect, running = deployment.settings.dialect, (column.facts.metrics or {}).get("running")
    name, endpoint = dialect.metrics.worker_in_flight, dialect.worker_endpoint
    pages = _pages(deployment)
    held = sum(page.total(name, dynamo_endpoint=endpoint) for page in pages)
    return held + sum(page.total(running) for page in pages if running)


def _ask(column: Column, deployment: Deployment) -> None:
    """Every prompt, whole and streamed, and what the engine counts of that."""
    before = _counts(column, deployment)
    greedy = {"max_tokens": contract().max_tokens, "temperature": 0, "ignore_eos": True}
    for name, prompt in contract().prompts.items():
        for send, answers in ((complete, column.whole), (stream, column.streamed)):
            answers[name] = send(deployment.endpoint, prompt, timeout_s=ANSWERS_WITHIN_S, **greedy)
    after = _counts(column, deployment)
    column.counted = {what: count - before[what] for what, count in after.items()}
    try:
        tokenizer = deployment.tokenizer()
    except NotOffered as error:
        column.no_tokenizer = str(error)
    else:
        column.prompt_tokens = {name: tokenizer.count(prompt) for name, prompt in contract().prompts.items()}


def be_refused(column: Column, deployment: Deployment, *, by_engine: bool) -> None:
    """The wrong requests that the engine must refuse itself, which may end it, or all others; and then a good one."""
    endpoint = deployment.endpoint
    cards = [worker.card or {} for worker in deployment.registered_workers()]
    context = max((card.get("context_length") or 0 for card in cards), default=0)
    for name, wrong in column.wrong_requests(by_engine=by_engine).items():
        long = ordinary_prompt(context + (wrong.beyond_context or 0))
        body = {"max_tokens": 1} | wrong.changes
        asked = InferenceEndpoint(endpoint.url, wrong.model or endpoint.model)
        prompt = wrong.prompt or (long if wrong.beyond_context else "one more?")
        column.refusals[name] = complete(asked, prompt, timeout_s=ANSWERS_WITHIN_S, **body)
    column.after_refusals[by_engine] = complete(endpoint, "and a good one?", timeout_s=ANSWERS_WITHIN_S, max_tokens=1)


def _leave(column: Column, deployment: Deployment, seed: int) -> None:
    """A client that disconnects in the middle of a stream, and how long its worker still has it in hand."""
    column.busy_before = bool(_in_hand(column, deployment))
    requests = plan(seed, 1, (10, 10), (MANY_TOKENS, MANY_TOKENS), leave_after_chunks=LEAVES_AFTER)
    (column.left,) = run_load(deployment.endpoint, requests, concurrency=1, within_s=STREAM_WITHIN_S)

    def idle() -> tuple[bool | None, object]:
        held = _in_hand(column, deployment)
        return (None if held else True), f"{held:g} in hand"

    column.idle_after_s = _seconds_until(idle, NOTICED_WITHIN_S)


def _store(column: Column, deployment: Deployment, seed: int, salt: str) -> None:
    """A prompt of whole blocks that nobody has sent before, and the events meanwhile; None: they are not on NATS."""
    registered = deployment.registered_workers()[0]
    column.block_size = (registered.card or {}).get("kv_cache_block_size") or 0
    if deployment.settings.event_plane != "nats" or not column.block_size:
        return
    subject = deployment.subject("kv-events", registered.component)
    prompt = Traces(column.block_size, seed, salt).tokens(KV_BLOCKS * column.block_size + 1)
    with kv_events(deployment.reach(deployment.settings.nats_url), subject) as seen:
        complete(deployment.endpoint, list(prompt), timeout_s=ANSWERS_WITHIN_S, max_tokens=1, ignore_eos=True)

        def stored() -> tuple[bool | None, object]:
            blocks = sum(len(event.blocks) for event in seen.look() if event.kind == "stored")
            return (True if blocks >= KV_BLOCKS else None), f"{blocks} blocks stored"

        _seconds_until(stored, EVENTS_WITHIN_S)
        column.events = seen.look()


def end(column: Column, deployment: ManagedDeployment, seed: int) -> None:
    """SIGTERM to the worker in the middle of a stream; killed when it does not end in its runtime's time."""
    (worker,) = deployment.workers
    tokens = _tokens_for(column.streamed.values())

    def in_flight() -> float:
        return sum(
            page.total_or_zero(deployment.settings.dialect.metrics.worker_in_flight) for page in _pages(deployment)
        )

    before = in_flight()
    with Threads(1) as pool:
        one = plan(seed + 1, 1, (10, 10), (tokens, tokens))
        stream = pool.submit(run_load, deployment.endpoint, one, concurrency=1, within_s=STREAM_WITHIN_S)

        def under_way() -> tuple[bool | None, str]:
            return (in_flight() > before or None), "idle"

        def unregistered() -> tuple[bool | None, str]:
            return (not deployment.registered_workers() or None), "registered"

        _seconds_until(under_way, NOTICED_WITHIN_S)
        process = worker.require_process()
        process.signal(signal.SIGTERM)
        clock = Deadline(worker.ends_within_s, f"{worker.name} to end after SIGTERM")
        unregistered_s = _seconds_until(unregistered, clock.remaining_s)
        try:
            status, ended_s = process.wait_until_ended(clock), clock.elapsed_s
        except DeadlineExceeded:
            status, ended_s = None, None
            worker.kill()
        (record,) = stream.result()
    column.stood_in = called(process.log())
    column.ended = Ended(record, tokens, unregistered_s, ended_s, status, process.end_of_log(6000))


def _tokens_for(streamed: Iterable[Answer]) -> int:
    """As many tokens as take the engine about STREAM_S, by its own pace here."""
    gaps = [b - a for answer in streamed for a, b in zip(answer.chunk_times_s, answer.chunk_times_s[1:], strict=False)]
    pace_s = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
    return round(min(max(STREAM_S / max(pace_s, 1e-3), LEAST_TOKENS), MOST_TOKENS))


def _seconds_until(done: Any, within_s: float) -> float | None:
    """Seconds until `done` gives True; None when it does not in time."""
    clock = Deadline(max(within_s, 0.1), "what is looked for")
    try:
        wait_until(done, clock, every_s=0.05)
    except DeadlineExceeded:
        return None
    return clock.elapsed_s
