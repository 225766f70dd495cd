"""Plants that prove the checks of module 01."""

import shutil
from pathlib import Path
from typing import Any

from fixtures.cluster.inventory.model import RuntimeSpec
from fixtures.cluster.nodes import Node
from fixtures.plants.answers import InOneChunk, Miscounted
from fixtures.plants.plant import Plant
from fixtures.plants.processes import started_late
from fixtures.plants.proxy import CorruptingProxy, Events, Exchange
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import Runtime


class WrongRuntimeVersion(Plant):
    """ai-dynamo 1.6.0 is installed where 1.6.1 is pinned."""

    catches = {"M00-05": "1.6.0", "M01-01": "1.6.0"}
    failures = (12,)

    def runtime(self, spec: RuntimeSpec, node: str) -> RuntimeSpec:
        older = {name: "1.6.0" if name.startswith("ai-dynamo") else v for name, v in spec.packages.items()}
        return spec.model_copy(update={"packages": older, "name": f"{spec.name}-planted"})


class ModuleMissing(Plant):
    """A module that the runtime is declared to carry is deleted from a copy of its environment.

    It works on this machine only: it copies the environment by hard links and damages the copy.
    """

    catches = {"M01-02": "does not import"}
    MODULE = "dynamo/router"

    def installed(self, node: Node, runtime: Runtime) -> Runtime:
        copy = Path(node.workdir) / "damaged-runtime"
        shutil.copytree(runtime.path, copy, copy_function=lambda a, b: Path(b).hardlink_to(a), symlinks=True)
        (found,) = copy.glob(f"lib/python*/site-packages/{self.MODULE}")
        shutil.rmtree(found)
        return Runtime(runtime.spec, str(copy), runtime.versions)


class NatsSlowToStart(Plant):
    """NATS takes 11 s to start."""

    catches = {"M01-05": "control_plane_ready_s"}

    def planned(self, deployment: ManagedDeployment) -> None:
        started_late(deployment.nats, 11)


class AnswerWithoutText(CorruptingProxy):
    """A proxy in front of the frontend takes the text out of answers.

    Whole answers only: the chunk of a stream that has usage has no choices.
    """

    catches = {"M01-06": "no text"}
    failures = (51,)

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("usage"):
            for choice in body.get("choices", []):
                choice |= {"text": ""} if "text" in choice else {"message": {"role": "assistant", "content": ""}}
        return body


class TruncatedStream(CorruptingProxy):
    """A proxy in front of the frontend cuts streams off before their end."""

    catches = {"M01-07": "[DONE]", "M01-08": "[DONE]", "M01-09": "[DONE]"}
    failures = (29,)

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        passed = 0
        async for chunk in events:
            if passed < 2 and chunk != "[DONE]":
                yield chunk
            passed += 1


class WrongUsageCounts(Miscounted):
    """A proxy in front of the frontend reports one prompt token too many and one completion token too few."""

    catches = {"M01-08": "prompt tokens", "M01-09": "completion tokens"}
    failures = (62,)


class BufferedStream(InOneChunk):
    """A proxy in front of the frontend puts all of a stream's text into one chunk."""

    catches = {"M01-07": "chunks have text"}
    failures = (59,)


NOT_PLANTED = {
    "M01-03": "A machine is not made smaller for a test. Numbers are held against bounds as in every other check.",
    "M01-10": "It needs a real engine: the mocker's random text would fail it without a plant.",
}
