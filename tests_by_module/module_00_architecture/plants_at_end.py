"""Plants that prove the checks of the end of a run: what requests leave behind, and what changes meanwhile."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from fixtures.basics.deadline import Deadline
from fixtures.clients.etcd import EtcdUnavailable
from fixtures.clients.nats import connected
from fixtures.cluster.nodes import Node
from fixtures.drift.kernel import Message, Said
from fixtures.plants.background import Background
from fixtures.plants.plant import Plant, point, with_argv
from fixtures.plants.processes import MegabyteOfEach
from fixtures.plants.proxy import COMPLETIONS, CorruptingProxy, Exchange
from fixtures.product.deployments.managed import ManagedDeployment

# a fake: from its fourth sample on this Python, and nobody else on the node, is shown a clock that was set
PYTHON_WITH_CLOCK = """#!/bin/sh
exec {python} -I -S -c '
import pathlib, runpy, sys, time
rest = [each for each in sys.argv[1:] if each not in ("-I", "-S")]
code = sys.stdin.read() if rest[0] == "-" else rest.pop(1) if rest[0] == "-c" else pathlib.Path(rest[0]).read_text()
if "clock_ahead_s" in code:
    counter = pathlib.Path("{counter}")
    counter.write_text((counter.read_text() if counter.exists() else "") + ".")
    if counter.stat().st_size > 3:
        right = time.time
        time.time = lambda: right() + 0.25
sys.argv = rest
exec(code, {{"__name__": "__main__"}})
' "$@"
"""


class ConnectionsKept(CorruptingProxy):
    """A proxy in front of the frontend leaves a connection open for each request."""

    catches = {"M00-18": "frontend: descriptors grow"}

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[asyncio.StreamWriter] = []

    async def received(self, request: web.Request) -> bytes:
        if request.path in COMPLETIONS:
            host, port = self.upstream.removeprefix("http://").rsplit(":", 1)
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            self._kept.append(writer)
        return await request.read()

    def undo(self) -> None:
        kept, self._kept = self._kept, []
        for writer in kept:
            self._loop.call_soon_threadsafe(writer.close)
        super().undo()


class WorkerEndedLate(Plant):
    """Somebody ends a worker after all other checks; the other one takes its requests."""

    catches = {"M00-18": "has ended, and nobody has started it again"}

    @point("module_00.at_end")
    def at_end(self, deployment: ManagedDeployment) -> ManagedDeployment:
        worker = deployment.workers[-1]
        worker.stop(Deadline(worker.ends_within_s, "the worker to end"))
        return deployment


class MegabyteKeptOfEach(MegabyteOfEach):
    """The frontend runs below a process that keeps a megabyte for each request that the frontend counts."""

    catches = {"M00-18": "frontend: resident memory grows"}


class CounterOfTheFrontendFalls(CorruptingProxy):
    """A proxy stands before the frontend's /metrics, and at every second look one counter has half of its value."""

    catches = {"M00-19": "dynamo_frontend_output_tokens_total"}
    looks = 0

    def serving(self, deployment: ManagedDeployment) -> None:
        page, given = f"{deployment.frontend_url}/metrics", deployment.reach
        direct = deployment.request_url
        super().serving(deployment)
        proxied = f"{deployment.request_url}/metrics"
        deployment.request_url = direct
        deployment.reach = lambda url: proxied if url == page else given(url)  # type: ignore[method-assign]

    def raw(self, exchange: Exchange, content: bytes) -> bytes:
        self.looks += 1
        if self.looks % 2:
            return content

        def halved(match: re.Match[bytes]) -> bytes:
            return match[1] + str(float(match[2]) / 2).encode()

        return re.sub(rb"(?m)^(dynamo_frontend_output_tokens_total\{.*\} )(\S+)$", halved, content)


class RequestsSlower(CorruptingProxy):
    """A proxy in front of the frontend holds each request longer than the one before, up to 0.3 s."""

    catches = {"M00-20": "times as long"}
    requests = 0

    async def received(self, request: web.Request) -> bytes:
        if request.path in COMPLETIONS:
            self.requests += 1
            # by the square: on a busy machine the first requests are as slow as a little more each time makes the last
            await asyncio.sleep(min(0.00005 * self.requests**2, 0.3))
        return await request.read()


class EtcdFilled(Background):
    """Somebody else writes 20 kB to the same etcd twenty times a second."""

    catches = {"M00-21": "etcd: the bytes that it uses grow"}

    def go_on(self, deployment: ManagedDeployment) -> None:
        with suppress(EtcdUnavailable), deployment.etcd_client() as etcd:  # until the deployment is taken down
            written = 0
            while not self._ended.wait(0.05):
                etcd.put(f"somebody/else/{written}", b"x" * 20_000)
                written += 1


class EtcdOutOfSpace(Plant):
    """etcd has a quota of 8 MB, and somebody else has used it up."""

    catches = {"M00-21": "NOSPACE"}

    def planned(self, deployment: ManagedDeployment) -> None:
        with_argv(deployment.etcd, lambda argv: [*argv, "--quota-backend-bytes", "8000000"])

    def serving(self, deployment: ManagedDeployment) -> None:
        with deployment.etcd_client() as etcd, suppress(EtcdUnavailable):  # "database space exceeded" ends it
            for number in range(200):
                etcd.put(f"somebody/else/{number}", b"x" * 1_000_000)


class EventsKept(Plant):
    """Somebody has made a JetStream stream that keeps every event of the deployment."""

    catches = {"M00-22": "JetStream: what it keeps grows"}
    failures = (11,)

    def serving(self, deployment: ManagedDeployment) -> None:
        with connected(deployment.reach(deployment.settings.nats_url)) as client:
            client.add_stream("namespace")


class LogFills(Background):
    """Something fills the frontend's log with 2 MB a second."""

    catches = {"M00-22": "frontend: the files that it writes grow"}

    def go_on(self, deployment: ManagedDeployment) -> None:
        log = Path(deployment.frontends[0].require_process().log_path)
        while not self._ended.wait(0.05) and log.exists():
            with log.open("ab") as file:
                file.write((b"x" * 99 + b"\n") * 1000)


class ClockSet(Plant):
    """Python on a node is shown a clock that is set by 250 ms in mid-run (a fake, no other process sees it)."""

    catches = {"M00-23": "is set by +250"}

    def connected(self, nodes: dict[str, Node]) -> None:
        node = list(nodes.values())[-1]
        script = PYTHON_WITH_CLOCK.format(python=node.python, counter=f"{node.workdir}/looks")
        node.put("python-with-clock", script.encode(), mode=0o755)
        node.python = f"{node.workdir}/python-with-clock"


class GpuOffTheBus(Plant):
    """The kernel of a node is reported to say that a GPU has fallen off the bus (a fake: none has)."""

    catches = {"M00-24": "a GPU failed"}
    says = "NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."

    @point("module_00.kernel")
    def reported(self, said: dict[str, Said]) -> dict[str, Said]:
        first = next(iter(said))
        lost = {"gpu_lost": Message(times=1, age_s=1.0, text=self.says)}
        return {**said, first: said[first].model_copy(update={"faults": lost})}


class NodeStartedAgain(Plant):
    """A node is reported to have started again a second ago, after its GPU driver found no memory (a fake)."""

    catches = {"M00-24": "started again"}

    @point("module_00.kernel")
    def reported(self, said: dict[str, Said]) -> dict[str, Said]:
        first = next(iter(said))
        before = ["NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY]"]
        return {**said, first: said[first].model_copy(update={"up_s": 1.0, "before": before})}
