"""Plants in engines that compute: they prove the checks of module 13 that start one."""

import re
from dataclasses import replace

from fixtures.basics.deadline import Deadline
from fixtures.cluster.nodes import Node
from fixtures.plants.engines import of_other_weights, other_weights_in_place
from fixtures.plants.plant import Plant, SettingsPlant, point, with_argv
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.dynamo import Worker

# what a changed copy of a model's folder begins with
COPIED = """
import json, os, pathlib, shutil, sys
source, target = map(pathlib.Path, sys.argv[1:])
shutil.copytree(source, target)
path = target / "model.safetensors"
"""
ZEROED = """
data = bytearray(path.read_bytes())
length = int.from_bytes(data[:8], "little")
for name, entry in json.loads(data[8 : 8 + length]).items():
    if ".experts.0." in name:
        begin, end = (8 + length + at for at in entry["data_offsets"])
        data[begin:end] = bytes(end - begin)
path.write_bytes(data)
"""
STALLED = """
path.unlink()
os.mkfifo(path)
"""
# a process that calls itself an engine's, with 300 MB, in a session of its own
ORPHAN = """
import os, subprocess, sys
held = "held = b'x' * 300_000_000; import time; time.sleep(600)"
quiet = subprocess.DEVNULL
process = subprocess.Popen(["VLLM::EngineCore", "-c", held], executable=sys.executable, start_new_session=True,
                           stdin=quiet, stdout=quiet, stderr=quiet)
print(process.pid)
"""


class EnginePlant(Plant):
    """In one engine of module 13, as `on` says."""

    nightly = True
    inventory = "lab-vllm"

    def changed_copy(self, worker: Worker, change: str) -> None:
        """The worker loads a copy of its model, after `change`."""
        copy = f"{worker.node.workdir}/changed-model"
        argv = [worker.node.python, "-c", COPIED + change, worker.model.path, copy]
        worker.node.run(argv, deadline=Deadline(60, "a changed copy of the model"))
        worker.model = replace(worker.model, path=copy)


class RankOfOtherShards(EnginePlant):
    """Of a tensor-parallel engine over both nodes, the rank on the second one loads other weights."""

    catches = {"M13-10": "logprob_gap_max"}
    on = ("module_13.*_tensor",)

    def planned(self, deployment: ManagedDeployment) -> None:
        last = deployment.workers[-1]
        other_weights_in_place(last.node, last.model.path)


class ExpertOfZeros(EnginePlant):
    """The weights of one expert in each layer are zero."""

    catches = {"M13-10": "logprob_gap_max"}
    on = ("module_13.*_one_node",)

    def planned(self, deployment: ManagedDeployment) -> None:
        self.changed_copy(deployment.workers[0], ZEROED)


class WorkersOfOtherWeights(EnginePlant):
    """All workers load weights of which a quarter stands one place away from where it belongs."""

    catches = {"M13-16": "answers are right: the model is said to have"}
    inventory = "local-vllm"

    def planned(self, deployment: ManagedDeployment) -> None:
        for worker in deployment.workers:
            worker.model = replace(worker.model, path=of_other_weights(worker.node, worker.model.path))


class ReplicasTakeOneAtATime(EnginePlant, SettingsPlant):
    """Each of the replicas serves one request at a time."""

    catches = {"M13-17": "replicas_of_one_together"}
    on = ("module_13.*_replicas",)
    worker = {"worker_args": ("--max-num-seqs", "1")}


class RotaryCureTakenAway(EnginePlant):
    """vLLM's CPU build computes latent attention with its own rotary operator."""

    catches = {"M13-10": "logprob_gap_max"}
    on = ("module_13.*_one_node",)

    def workers(self, workers: list[Worker]) -> list[Worker]:
        for worker in workers:
            with_argv(worker, lambda argv: [*argv, "--compilation-config", "{}"])
        return workers


class WeightsThatNeverCome(EnginePlant):
    """The file of weights is a pipe into which nobody writes: the read stalls."""

    catches = {"M13-10": "stands still"}
    on = ("module_13.*_one_node",)

    def planned(self, deployment: ManagedDeployment) -> None:
        self.changed_copy(deployment.workers[0], STALLED)


class FirstStartLeavesAnOrphan(EnginePlant):
    """A process of an engine outlives its end, and keeps 300 MB."""

    catches = {"M13-13": "VLLM::EngineCore", "M13-15": "VLLM::EngineCore"}
    orphans: dict[Node, str]

    def __init__(self) -> None:
        self.orphans = {}

    @point("module_13.serving")
    def orphan(self, members: dict[Node, list[int]]) -> dict[Node, list[int]]:
        node = next(iter(members))
        if node not in self.orphans:
            done = node.run([node.python, "-c", ORPHAN], deadline=Deadline(20, "an orphan"))
            self.orphans[node] = done.stdout.strip()
        return {**members, node: [*members[node], int(self.orphans[node])]}

    def undo(self) -> None:
        for node, pid in self.orphans.items():
            node.run(["kill", "-9", pid], deadline=Deadline(10, "the orphan's end"), expect=None)


class LogOfOtherKv(EnginePlant):
    """In an engine's log the same memory has room for KV of half as many tokens, as when each takes twice the bytes."""

    catches = {"M13-11": "KV of a token"}

    @point("module_13.log")
    def halved(self, log: str) -> str:
        return re.sub(r"(KV cache size: )([\d,]+)", lambda m: f"{m[1]}{int(m[2].replace(',', '')) // 2:,}", log)
