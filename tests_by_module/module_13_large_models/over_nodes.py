"""One engine as it is started, asked and ended: its phases, its answers, its log, and what is left of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any

from fixtures.answers.ask import ask_all
from fixtures.answers.oracle import ANSWER_TOKENS, AT_ONCE, Differences, Oracle
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.clients.inference import complete
from fixtures.cluster.nodes import Node, RemoteError
from fixtures.cluster.probes.probe import families, footprint
from fixtures.fit.guards import Progress, look, progress, standstill
from fixtures.kv.ucx_devices import net_devices
from fixtures.load.traces import TOKEN_IDS
from fixtures.product.deployments import placement
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.ranks import PREFILL_DECODE, REPLICAS, spread_of
from fixtures.product.services.base import ServiceFailed
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run

# with less than a second of processor time in a minute, and nothing read or taken, a start will not end
STANDS_STILL_S, EVERY_S = 60, 5.0
LOOKS_WITHIN_S, ENDS_WITHIN_S = 20, 10
# what speed is told by: decoding, next to which the prompts count little
TOGETHER, PROMPT_TOKENS = 16, 16
GENERATED: dict[str, Any] = {"max_tokens": 64, "temperature": 0, "ignore_eos": True, "timeout_s": 120}
# Dynamo's time of the line that it writes once all is imported (ai-dynamo 1.4 and 1.6)
IMPORTED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)Z.*Initializing KV store discovery backend")
# how long each took, as vLLM 0.26 and 0.31 say
WEIGHTS = re.compile(r"Loading weights took ([\d.]+) seconds")
KV = re.compile(r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s")


@dataclass(frozen=True)
class StartUp:
    """Seconds from the start of the first rank's process, or of a phase; None where its log does not say it."""

    imported_s: float | None
    weights_s: float | None
    kv_s: float | None
    registered_s: float
    first_token_s: float


@dataclass(frozen=True)
class Speed:
    """Output tokens a second: of one request by itself, and of TOGETHER at once."""

    alone: float
    together: float


@dataclass
class Seen:
    """One engine, or replicas. `left` is what still runs of it once it has ended, `memory` of each node in bytes
    available before its start, while it served and after its end."""

    model: str
    layout: str
    startup: StartUp
    answers: dict[str, Differences]
    speed: Speed
    logs: dict[str, str]
    left: list[str] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)


class Watch:
    """While inside, looks at each worker of the deployment that comes up, and kills one whose start stands still."""

    def __init__(self, run: Run, prefix: str) -> None:
        self.samples: dict[str, list[Progress]] = {}
        self.stood_still: list[str] = []
        self._run, self._prefix = run, prefix
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(2 * LOOKS_WITHIN_S)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            for deployment in [each for each in self._run.deployments if each.prefix == self._prefix]:
                for worker in deployment.workers:
                    with suppress(RemoteError):
                        self._look(worker)

    def _look(self, worker: Worker) -> None:
        if worker.process is None or not worker.is_alive() or worker.name in self.stood_still:
            return
        seen = self.samples.setdefault(worker.name, [])
        seen.append(progress(worker.node, worker.process.pgid))
        if why := standstill(seen, STANDS_STILL_S):
            self.stood_still.append(f"{worker.name} on {worker.node.name} stands still: {why}")
            worker.kill()


@contextmanager
def served(run: Run, name: str, model: str, layout: str, devices: int, **changes: Any) -> Iterator[ManagedDeployment]:
    """That model in a layout, with `devices` of each node.

    Raises ServiceFailed, which says so where a start stood still, and DeadlineExceeded.
    """
    watch = Watch(run, f"{name.rpartition('.')[2]}-")
    placed = _placed(run, layout, devices)
    try:
        with watch, run.own_deployment(name, placed=placed, model=model, **changes) as deployment:
            watch.end()
            yield deployment
    except ServiceFailed:
        if watch.stood_still:
            raise ServiceFailed(watch.stood_still[0]) from None
        raise


def _placed(run: Run, layout: str, devices: int) -> placement.Placement:
    """Engines as the layout says, the rest by its roles; KV between nodes takes the declared way."""
    specs = run.inventory.nodes
    roles = placement.declared(specs)
    if layout == PREFILL_DECODE:
        apart = placement.disaggregated(specs)
        transport = run.inventory.cluster.dynamo_kv_transport
        devices_of = {name: tuple(net_devices(run.nodes()[name], transport).items()) for name in apart.workers}
        return replace(apart, worker_settings={name: {"extra_env": each} for name, each in devices_of.items()})
    nodes = list(roles.workers)
    spread = spread_of(layout, len(nodes), devices)
    over = nodes if layout == REPLICAS or (spread and spread.tensor * spread.pipeline > 1) else nodes[:1]
    return replace(roles, workers=dict.fromkeys(over, 1), types={}, spread=spread)


def asked(deployment: ManagedDeployment, oracle: Oracle) -> dict[str, Differences]:
    """Its answers against the reference's: the first prompts one at a time, the second together."""
    return {
        nonce: oracle.differences(
            nonce,
            ask_all(
                deployment.endpoint, oracle.prompts[nonce], max_tokens=ANSWER_TOKENS, at_once=at_once, server="dynamo"
            ),
        )
        for nonce, at_once in (("first", 1), ("second", AT_ONCE))
    }


def speed_of(deployment: ManagedDeployment) -> Speed:
    """Of short prompts, which no earlier one begins like. Raises CouldNotLook for one that is not answered."""

    def at_once(count: int) -> float:
        prompts = [[first, *TOKEN_IDS[:PROMPT_TOKENS]] for first in TOKEN_IDS[count : 2 * count]]
        began = time.monotonic()
        with Threads(count) as pool:
            answers = list(pool.map(lambda prompt: complete(deployment.endpoint, prompt, **GENERATED), prompts))
        took_s = time.monotonic() - began
        if failed := [each.describe() for each in answers if not each.ok]:
            raise CouldNotLook(f"{len(failed)} of {count} requests were not answered: {failed[0]}")
        return sum(each.counted("completion_tokens") for each in answers) / took_s

    return Speed(at_once(1), at_once(TOGETHER))


def started(deployment: ManagedDeployment) -> StartUp:
    first = deployment.workers[0]
    log, pid = first.log(), first.require_process().pgid
    began_at = footprint(first.node, [pid])[pid]["began_at"]
    imported = IMPORTED.search(log)
    assert first.launched_at is not None
    registered_s = deployment.registered_at - first.launched_at
    token_s = next(phase.duration_s for phase in deployment.phases if phase.what == "first token")
    return StartUp(
        datetime.fromisoformat(f"{imported[1]}+00:00").timestamp() - began_at if imported else None,
        _longest(WEIGHTS, deployment),
        _longest(KV, deployment),
        registered_s,
        registered_s + token_s,
    )


def _longest(said: re.Pattern[str], deployment: ManagedDeployment) -> float | None:
    """Of all ranks."""
    return max((float(each) for worker in deployment.workers for each in said.findall(worker.log())), default=None)


def members(deployment: ManagedDeployment) -> dict[Node, list[int]]:
    """By node, the processes of its workers and of all that they have started. Raises RemoteError."""
    found: dict[Node, list[int]] = {}
    for worker in deployment.workers:
        pid = worker.require_process().pgid
        found.setdefault(worker.node, []).extend(each["pid"] for each in families(worker.node, [pid], [])[pid])
    return found


def left_of(members: dict[Node, list[int]]) -> list[str]:
    """Those of the processes that do not end, a sentence each. Raises RemoteError.

    What a process has started ends a moment after it, such as multiprocessing's resource tracker.
    """
    found: list[str] = []

    def look() -> tuple[bool | None, object]:
        found[:] = [
            f"{node.name}: {argv[0]} ({pid}) still runs and keeps {kept / 1e9:.1f} GB"
            for node, pids in members.items()
            for pid, argv, kept in _there(node, pids)
        ]
        return (None if found else True), found

    with suppress(DeadlineExceeded):
        wait_until(look, Deadline(ENDS_WITHIN_S, "processes to end with those that started them"), every_s=0.5)
    return found


def _there(node: Node, pids: Sequence[int]) -> Iterator[tuple[int, list[str], int]]:
    """Of those that run, not of what has ended and waits for its parent: pid, how it calls itself, bytes in memory."""
    for pid in pids:
        deadline = Deadline(LOOKS_WITHIN_S, f"process {pid} on {node.name}")
        done = node.run(["ps", "-o", "stat=,rss=,args=", "-p", str(pid)], deadline=deadline, expect=None, hidden=True)
        words = done.stdout.split()
        if words and not words[0].startswith("Z"):
            yield pid, words[2:3], int(words[1]) * 1024


def available(run: Run, names: Sequence[str]) -> dict[str, int]:
    """Bytes of memory on each node. Raises RemoteError."""
    return {name: look(run.nodes()[name].spec).memory.available for name in names}
