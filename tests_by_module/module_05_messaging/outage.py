"""NATS taken away and given back under a load: what became of each request, and of the KV events meanwhile."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.versioned_table import covers
from fixtures.clients.inference import complete
from fixtures.clients.kv_events import kv_events
from fixtures.load.from_here import COMPLETED, FAILED, HUNG, RequestRecord, run_load
from fixtures.load.plan import PlannedRequest, plan
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import unique_prompt

T = TypeVar("T")

TABLE = Path(__file__).with_name("faults.yaml")
CONCURRENCY = 8
PROMPT_TOKENS, OUTPUT_TOKENS = (70, 200), (100, 160)
ENOUGH = 2 * CONCURRENCY  # requests that end before the loss, and once all is as before
MOST_DONE = 0.25  # of its tokens has a request that runs when NATS is lost
CLIENT_WAITS_S = 8
AWAY_S = 3
BACK_WITHIN_S = 20
SERVED_IN_A_ROW = 2
AT_ONCE_S, RECOVERED_WITHIN_S = 0.5, 5
# what faults.yaml explains
Phase = Literal["before", "running", "caught", "away", "returning", "after"]
HEADERS = ("sent", "requests", COMPLETED, FAILED, HUNG, "may be")
Events = Literal["delivered", "recovered", "lost", "none"]


class Fault(BaseModel):
    """An entry of faults.yaml; its words are explained there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: str
    request_plane: Literal["tcp", "nats"]
    event_plane: Literal["nats", "zmq"]
    source: str
    requests: dict[Phase, tuple[Literal["completed", "failed", "hung"], ...]]
    served_while_away: bool
    events: Events


def fault_table(run: Run, deployment: ManagedDeployment) -> Fault:
    """What the fault table says of this version on these planes. Raises CouldNotLook when it says nothing."""
    version, settings = run.product_version(), deployment.settings
    for entry in map(Fault.model_validate, YAML(typ="safe").load(TABLE)):
        same = (entry.request_plane, entry.event_plane) == (settings.request_plane, settings.event_plane)
        if same and covers(entry.versions, version):
            return entry
    raise CouldNotLook(
        f"{TABLE.name} says nothing of ai-dynamo {version} with requests over {settings.request_plane} and events over "
        f"{settings.event_plane}: measure what the loss of NATS costs there and add an entry"
    )


@dataclass(frozen=True)
class Outage:
    """What was seen. Times are on the monotonic clock; `kv_events_again_s` is None where they do not go over NATS."""

    lost_at: float
    gone_at: float
    starting_at: float
    served_at: float
    served_again_s: float
    kv_events_again_s: float | None
    events: Events
    records: list[RequestRecord]
    ended: list[str]

    def phase(self, record: RequestRecord) -> Phase:
        if record.sent_at < self.gone_at:
            if record.sent_at + record.answer.duration_s <= self.lost_at:
                return "before"
            return "running" if record.was_running(self.lost_at) else "caught"
        if record.sent_at < self.starting_at:
            return "away"
        return "returning" if record.sent_at < self.served_at else "after"

    def counts(self) -> dict[Phase, Counter[str]]:
        """How many requests of each phase came to each end."""
        counts: dict[Phase, Counter[str]] = {phase: Counter() for phase in get_args(Phase)}
        for record in self.records:
            counts[self.phase(record)][record.outcome] += 1
        return counts

    @property
    def served_while_away(self) -> int:
        """Requests that were sent without NATS and answered without it."""
        away = [each for each in self.records if self.phase(each) == "away" and each.outcome == COMPLETED]
        return sum(each.sent_at + (each.answer.first_token_s or 0) < self.starting_at for each in away)

    def rows(self, table: Fault) -> list[list[object]]:
        return [
            [phase, seen.total(), seen[COMPLETED], seen[FAILED], seen[HUNG], " or ".join(table.requests[phase])]
            for phase, seen in self.counts().items()
        ]

    def mistakes(self, table: Fault) -> list[str]:
        """Where it went otherwise than the fault table says, in words."""
        ends = sum(seen[each] for seen in self.counts().values() for each in (COMPLETED, FAILED, HUNG))
        assert ends == len(self.records), f"{len(self.records)} requests were sent, {ends} came to an end"
        found = [f"not running any more after the loss of NATS: {', '.join(self.ended)}"] if self.ended else []
        for phase, seen in self.counts().items():
            allowed = table.requests[phase]
            if not seen and phase not in ("caught", "returning"):
                found.append(f"no request was in the phase '{phase}' (faults.yaml): nothing can be said of it")
            for outcome in seen.keys() - set(allowed):
                example = next(r for r in self.records if (self.phase(r), r.outcome) == (phase, outcome))
                found.append(
                    f"{seen[outcome]} of {seen.total()} requests of the phase '{phase}' {outcome}, "
                    f"expected {' or '.join(allowed)}: {example.describe()}"
                )
        if table.served_while_away and not self.served_while_away:
            found.append("no request was answered while NATS was away")
        if self.served_while_away and not table.served_while_away:
            found.append(f"{self.served_while_away} requests were answered without NATS: they did not go over NATS")
        if self.events != table.events:
            found.append(f"KV events of the outage: expected {table.events}, got {self.events}")
        return found


class Load:
    """Requests until the block ends, `CONCURRENCY` at a time; `records` holds every one that was sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.records: list[RequestRecord] = []

    def requests(self, seed: int, ended: threading.Event) -> Iterator[PlannedRequest]:
        for number in itertools.count():
            if ended.is_set():
                return
            self.sent += 1
            yield replace(plan(seed + number, 1, PROMPT_TOKENS, OUTPUT_TOKENS)[0], number=number)

    def wait_for_more(self) -> None:
        """Until `ENOUGH` requests more have ended. Raises DeadlineExceeded."""
        enough = self.sent + ENOUGH
        deadline = Deadline(CLIENT_WAITS_S + BACK_WITHIN_S, f"{ENOUGH} requests to end")
        wait_until(lambda: (True if self.sent >= enough else None, f"{self.sent} sent"), deadline)

    def wait_until_one_runs(self) -> float:
        """Until a request has had its first token and most are to come: when that was so. Raises DeadlineExceeded.

        Those that have just been sent, one for each that ended, may all be waiting for their first. Of one that is
        nearly done the end may have come already, and not been read.
        """

        def look() -> tuple[float | None, object]:
            now = time.monotonic()
            runs = any(
                record.was_running(now) and len(record.answer.chunks) < record.planned.max_tokens * MOST_DONE
                for record in self.records
            )
            return (now if runs else None), f"{self.sent} sent, none has had its first token and not most of them"

        return wait_until(look, Deadline(CLIENT_WAITS_S, "a request to be running when NATS is lost"))


@contextmanager
def under_load(deployment: ManagedDeployment, seed: int) -> Iterator[Load]:
    load, ended = Load(), threading.Event()
    requests = load.requests(seed, ended)
    with Threads(1) as pool:
        sent = partial(run_load, concurrency=CONCURRENCY, within_s=CLIENT_WAITS_S, records=load.records)
        running = pool.submit(sent, deployment.endpoint, requests)
        try:
            yield load
        finally:
            ended.set()
            running.result()


def lose_nats(run: Run, deployment: ManagedDeployment) -> Outage:
    """SIGKILL NATS under a load, start it again, go on until all is as before. Raises AssertionError if it never is."""
    nats, prompt = deployment.nats, unique_prompt(12)
    ask = partial(complete, deployment.endpoint, max_tokens=2, ignore_eos=True, timeout_s=AWAY_S)
    with under_load(deployment, run.seed) as load:
        load.wait_for_more()
        lost_at = load.wait_until_one_runs()
        nats.kill()
        gone_at = time.monotonic()
        run.at("module_05.nats_away", deployment)
        away = Deadline(AWAY_S, "NATS to be started again")
        stored = ask(prompt).ok

        def known() -> bool:
            return bool(ask(prompt).kv_hit_rate)

        at_once = stored and _becomes(known, AT_ONCE_S)
        away.pause(AWAY_S)
        run.at("module_05.restarting", nats)
        starting_at = time.monotonic()
        nats.start(Deadline(BACK_WITHIN_S, "NATS to be back"))
        back = Deadline(BACK_WITHIN_S, "all to be as before the loss of NATS")

        in_a_row = 0

        def served() -> tuple[float | None, object]:
            # twice, and nobody else is refused meanwhile: the first answer may have come through just before the
            # frontend learns of those that waited in vain, and does without the worker for seconds
            nonlocal in_a_row
            began, answer = time.monotonic(), ask(unique_prompt(1))
            refused = [each for each in load.records if each.sent_at >= began and each.outcome == FAILED]
            in_a_row = in_a_row + 1 if answer.ok and not refused else 0
            told = refused[0].describe() if refused else answer.describe()
            return (time.monotonic() if in_a_row == SERVED_IN_A_ROW else None), told

        served_at = _wait(served, back, "not served again after NATS came back")
        served_again_s = back.elapsed_s
        kv_events_again_s = _kv_events_again(deployment, back) if deployment.settings.event_plane == "nats" else None
        events: Events = "delivered" if at_once else "none"
        if stored and not at_once:
            # the load makes the worker publish more meanwhile
            events = "recovered" if _becomes(known, RECOVERED_WITHIN_S) else "lost"
        load.wait_for_more()
    ended = [each.name for each in (deployment.frontend, *deployment.workers) if not each.is_alive()]
    times = (lost_at, gone_at, starting_at, served_at, served_again_s, kv_events_again_s)
    return Outage(*times, events, load.records, ended)


def record_loss(
    run: Run, deployment: ManagedDeployment, measure: Measure, evidence: Evidence
) -> tuple[Outage, list[str]]:
    """NATS is lost: what was seen, recorded, and where it went otherwise than the fault table says, in words."""
    seen, table = lose_nats(run, deployment), fault_table(run, deployment)
    evidence.table("requests by when they were sent", HEADERS, seen.rows(table))
    measure("served_again_s", seen.served_again_s)
    return seen, seen.mistakes(table)


def _wait(look: Callable[[], tuple[T | None, object]], deadline: Deadline, otherwise: str) -> T:
    try:
        return wait_until(look, deadline, every_s=0.1)
    except DeadlineExceeded as error:
        raise AssertionError(f"{error}: {otherwise}") from None


def _kv_events_again(deployment: ManagedDeployment, back: Deadline) -> float:
    """Seconds on the clock `back` until the load's KV events are on NATS again."""
    with kv_events(deployment.reach(deployment.nats.url), deployment.subject("kv-events")) as seen:
        _wait(
            lambda: (bool(seen.look()) or None, "no KV event since NATS is back"), back, "no KV event was seen on NATS"
        )
    return back.elapsed_s


def _becomes(known: Callable[[], bool], within_s: float) -> bool:
    try:
        return wait_until(lambda: (known() or None, "no hit"), Deadline(within_s, "a hit"))
    except DeadlineExceeded:
        return False
