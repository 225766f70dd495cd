"""Plants on the check of prefill and decode of two versions."""

import asyncio

from aiohttp import web

from fixtures.cluster.inventory.model import Inventory, RuntimeSpec
from fixtures.plants.engines import planted_in_engine
from fixtures.plants.plant import Plant
from fixtures.plants.proxy import COMPLETIONS, CorruptingProxy, Exchange
from fixtures.product.services.dynamo import Worker
from tests_by_module.module_10_disaggregated_serving.plants import of_type

LONGER_THAN_CLIENTS_WAIT_S = 3600


class _ThatServe(Plant):
    """Two versions are declared, and both sides get that of prefill: they serve, so that nothing else turns red."""

    nightly = True
    alone = True
    inventory = "lab-vllm-mixed"
    on = ("module_10.versions",)

    def declared(self, inventory: Inventory) -> Inventory:
        self.of_prefill = inventory.runtime(inventory.with_role("prefill")[0].worker_runtime)
        return inventory

    def runtime(self, spec: RuntimeSpec, node: str) -> RuntimeSpec:
        return self.of_prefill


class KvDamagedBetweenVersions(_ThatServe):
    """Decode takes the KV of prefill, and the first block of each request is damaged."""

    catches = {"M10-18": "corrupt"}
    failures = (33, 54)

    def workers(self, workers: list[Worker]) -> list[Worker]:
        planted_in_engine(of_type(workers, "decode"), "corrupt_blocks")
        return workers


class RefusalsWithoutReason(_ThatServe, CorruptingProxy):
    """A proxy in front of the frontend refuses each request by itself, so that no log says why."""

    catches = {"M10-18": "nothing says what does not fit"}

    def answer_itself(self, exchange: Exchange) -> web.Response | None:
        refusal = {"message": "Internal server error", "type": "Internal Server Error", "code": 500}
        return web.json_response(refusal, status=500) if exchange.path in COMPLETIONS else None


class RequestsHang(_ThatServe, CorruptingProxy):
    """A proxy in front of the frontend answers no request, and ends none."""

    catches = {"M10-18": "neither tokens nor an error"}

    async def received(self, request: web.Request) -> bytes:
        if request.path in COMPLETIONS:
            await asyncio.sleep(LONGER_THAN_CLIENTS_WAIT_S)
        return await super().received(request)
