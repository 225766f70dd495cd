"""Plants that prove the checks of module 12: what falsifies a measurement, on the client's side and on the way."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from aiohttp import web

from fixtures.load.request import Request
from fixtures.plants.plant import Plant, SettingsPlant, point, with_env
from fixtures.plants.processes import HeldUp, MegabyteOfEach, WithoutPrefixCaching
from fixtures.plants.proxy import COMPLETIONS, Chunk, CorruptingProxy, Events, Exchange
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.base import Service

# a load client with something more in its interpreter
CLIENT = """#!/bin/sh
exec {python} -c '
import runpy, signal, sys, threading, time
{more}
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
' "$@"
"""
NEVER_RESTS = """
def burn():
    while True: pass
threading.Thread(target=burn, daemon=True).start()
"""
STANDS_STILL = """
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.1))
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
"""


class OnOneMachine(Plant):
    """What is planted where module 12 runs on the embedded default."""

    inventory = "local-benchmark"


class OnTheWay(CorruptingProxy, OnOneMachine):
    """A proxy between the client that measures and the frontend."""

    def serving(self, deployment: ManagedDeployment) -> None:
        super().serving(deployment)
        self.proxy_url = deployment.request_url

    @point("module_12.url")
    def through(self, url: str) -> str:
        return self.proxy_url


class WorkerNotAsked(OnTheWay):
    """A proxy before the frontend gives all requests to one of the workers."""

    catches = {"M12-01": "not every worker served"}
    refused = True

    def serving(self, deployment: ManagedDeployment) -> None:
        self.chosen = next(iter(deployment.registered_as.values()))
        super().serving(deployment)

    def request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"nvext": body.get("nvext", {}) | {"backend_instance_id": self.chosen}}


class OtherClient(OnOneMachine):
    """A client that measures which has `more` in its interpreter."""

    more: str

    @point("module_12.client")
    def other(self, client: Equipment) -> Equipment:
        folder = f"{client.node.workdir}/other-client"
        script = CLIENT.format(python=client.runtime.python, more=self.more)
        client.node.put(f"{folder}/bin/python", script.encode(), mode=0o755)
        return replace(client, runtime=replace(client.runtime, path=folder))


class ClientShort(OtherClient):
    """The client that measures shares its interpreter with a thread that never rests."""

    catches = {"M12-02": "the client was the bottleneck"}
    more = NEVER_RESTS


class ClientStandsStill(OtherClient):
    """The client that measures stands still for 0.1 s of each 0.2 s, and takes no processor meanwhile."""

    catches = {"M12-02": "in the kernel before it read them"}
    nightly = True
    more = STANDS_STILL


class RecordsDropped(OnOneMachine):
    """The client forgets one in twenty of the requests of the sweep, as one that drops those that failed."""

    catches = {"M12-03": "are in the records"}
    nightly = True

    @point("module_12.records")
    def without_some(self, requests: Sequence[Request], name: str) -> Sequence[Request]:
        return [each for each in requests if each.number % 20 != 7] if name.endswith("at once") else requests


class RequestsSentTwice(OnTheWay):
    """A proxy before the frontend sends each request twice, one after the other."""

    catches = {
        "M12-03": "and the frontend counted",
        "M12-05": "first_token_way_ms",
        "M12-07": "ttft_beyond_frontend_ms",
        "M12-08": "and the frontend counted",
    }
    nightly = True
    times_sent = 2


class RequestsRefusedNowAndThen(OnTheWay):
    """A proxy before the frontend answers one request in thirty with 503."""

    catches = {"M12-03": "HTTP 503", "M12-08": "HTTP 503", "M12-09": "requests of the overload"}
    nightly = True

    def __init__(self) -> None:
        super().__init__()
        self._asked = count(1)

    def answer_itself(self, exchange: Exchange) -> web.Response | None:
        refused = exchange.path in COMPLETIONS and not next(self._asked) % 30
        return web.json_response({"message": "HTTP 503 by the plant", "code": 503}, status=503) if refused else None


class UsageMissing(OnTheWay):
    """A proxy before the frontend takes usage out of the answers."""

    catches = {
        "M12-03": "have no usage",
        "M12-04": "itl_ms_beyond_knee = no value",
        "M12-06": "slower_worker_itl_ratio = no value",
        "M12-07": "chunks_a_token = no value",
        "M12-08": "have no usage",
        "M12-10": "goodput_beyond_asked",
    }
    nightly = True

    def body(self, exchange: Exchange, body: Chunk) -> Chunk:
        return {name: value for name, value in body.items() if name != "usage"}


class TokensCountedTwice(OnTheWay):
    """A proxy before the frontend doubles the completion tokens in usage."""

    catches = {"M12-03": "and usage has", "M12-07": "chunks_a_token", "M12-08": "and usage has"}
    nightly = True

    def body(self, exchange: Exchange, body: Chunk) -> Chunk:
        if usage := body.get("usage"):
            usage["completion_tokens"] *= 2
        return body


class TokenHeldBack(OnTheWay):
    """A proxy before the frontend holds one chunk in 50 back for 0.3 s."""

    catches = {"M12-07": "longest_pause_"}
    nightly = True

    def __init__(self) -> None:
        super().__init__()
        self._passed = count(1)

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        async for event in events:
            if not next(self._passed) % 50:
                await asyncio.sleep(0.3)
            yield event


class StreamGathered(OnTheWay):
    """A proxy before the frontend buffers a stream and sends eight chunks at a time."""

    catches = {"M12-05": "first_token_way_ms", "M12-07": "ttft_beyond_frontend_ms"}
    may_catch = {"M12-04": "not steady"}  # a first token waits for seven more, so that TTFT scatters with the load
    nightly = True

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        gathered: list[Chunk | str] = []
        async for event in events:
            gathered.append(event)
            if len(gathered) == 8:
                for each in gathered:
                    yield each
                gathered = []
        for each in gathered:
            yield each


class WorkerHalfAsFast(OnOneMachine, SettingsPlant):
    """The last worker takes twice as long for each token as the others."""

    catches = {"M12-06": "slower_worker_itl_ratio"}
    nightly = True
    last_worker = {"worker_args": ("--speedup-ratio", "0.25")}


class WorkersAFifthSlower(OnOneMachine, SettingsPlant):
    """All workers take 1.2 times as long as in the reference."""

    catches = {"M12-04": "itl_ms_beyond_knee"}
    nightly = True
    compared = True
    worker = {"worker_args": ("--speedup-ratio", "0.4167")}


class CollapsesUnderLoad(OnTheWay):
    """A proxy before the frontend holds each answer for 1.5 s while more than 28 are under way."""

    catches = {"M12-04": "throughput_held", "M12-05": "first_token_way_ms"}
    nightly = True

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        if self.in_flight > 28:  # as in the sweep at its highest, and not at 75 % of the knee
            await asyncio.sleep(1.5)
        async for event in events:
            yield event


class FrontendWithOneThread(OnOneMachine, HeldUp):
    """The frontend has one thread, and that for a tenth of the time."""

    catches = {"M12-05": "event_loop_delay_ms"}
    # a pause of 90 ms is eight tokens' time, and either client's requests may come while it is stopped
    may_catch = {"M12-07": "longest_pause_", "M12-11": "aiperf_ttft_p50_of_ours"}
    nightly = True
    stopped_s, runs_s = 0.09, 0.01

    def planned(self, deployment: ManagedDeployment) -> None:
        with_env(deployment.frontends[0], {"DYN_RUNTIME_NUM_WORKER_THREADS": "1"})

    def held(self, deployment: ManagedDeployment) -> Service:
        return deployment.frontends[0]


class SlowAfterOverload(OnTheWay):
    """A proxy before the frontend holds each request for 0.3 s once there was an overload."""

    catches = {"M12-09": "ttft_after_overload_ratio"}
    nightly = True
    late_s = 0.0

    @point("module_12.records")
    def remembers(self, requests: Sequence[Request], name: str) -> Sequence[Request]:
        self.late_s = 0.3 if name.startswith("125 %") else self.late_s
        return requests

    async def received(self, request: web.Request) -> bytes:
        await asyncio.sleep(self.late_s)
        return await request.read()


class RequestsHeldNowAndThen(OnTheWay):
    """A proxy before the frontend holds one request in eight for 1.2 s."""

    catches = {
        "M12-05": "first_token_way_ms",
        "M12-07": "ttft_beyond_frontend_ms",
        "M12-10": "goodput_beyond_asked",
    }
    nightly = True

    def __init__(self) -> None:
        super().__init__()
        self._asked = count(1)

    async def received(self, request: web.Request) -> bytes:
        if request.path in COMPLETIONS and not next(self._asked) % 8:
            await asyncio.sleep(1.2)
        return await request.read()


class HeadsComputedAgain(OnOneMachine, WithoutPrefixCaching):
    """No worker keeps what it has computed of a prompt."""

    catches = {"M12-13": "cached_of_promised", "M12-14": "cached_of_promised"}
    nightly = True


class LeftRequestsGoOn(CorruptingProxy, OnOneMachine):
    """A proxy before the frontend goes on with a request for eight seconds after its client has left."""

    catches = {"M12-15": "ended_after_leaving_s"}
    nightly = True
    lingers_s = 8.0

    def serving(self, deployment: ManagedDeployment) -> None:
        super().serving(deployment)
        self.proxy_url = deployment.request_url

    @point("module_12.url_of_shapes")
    def through(self, url: str) -> str:
        return self.proxy_url


class AiperfCountsItself(OnOneMachine):
    """AIPerf counts tokens with a tokenizer instead of taking the server's counts."""

    catches = {"M12-11": "usage_discrepancy_count"}
    nightly = True

    @point("module_12.aiperf_options")
    def without_usage(self, options: list[str]) -> list[str]:
        return [each for each in options if each != "--use-server-token-count"]


class ClientBeginsLate(Plant):
    """The second of two clients begins to send half a second after the first."""

    catches = {"M12-16": "the clients began"}
    nightly = True
    inventory = "lab-benchmark"

    @point("module_12.clients_late_s")
    def late(self, late_s: list[float]) -> list[float]:
        return [*late_s[:-1], 0.5]


class MegabyteKeptUnderLoad(MegabyteOfEach, OnOneMachine):
    """The frontend runs below a process that keeps a megabyte for each request that the frontend counts."""

    catches = {"M12-17": "memory_mb_a_1000_requests"}
    nightly = True


AT_NIGHT = "It runs at night only, and plants are held against short forms. What AIPerf sees is proven with M12-11."
NOT_PLANTED = dict.fromkeys(("M12-12", *(f"M12-{number}" for number in range(18, 24))), AT_NIGHT)
