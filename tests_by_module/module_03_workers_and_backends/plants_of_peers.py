"""Plants that make one of two workers differ from the other, most of them from outside its process."""

import json
from dataclasses import replace
from typing import Any

from fixtures.basics.deadline import Deadline
from fixtures.basics.require import require
from fixtures.plants.engines import of_other_weights, other_weights_in_place
from fixtures.plants.plant import Plant, SettingsPlant
from fixtures.plants.processes import HeldUp
from fixtures.plants.proxy import CorruptingProxy, Exchange
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import ServedModel
from fixtures.product.services.base import Service
from fixtures.product.services.dynamo import Worker

# holds connections to a port, which says nothing on them
HOLDS_CONNECTIONS = """
import signal, socket, sys
held = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
signal.pause()
"""


class OneWorkerIsSlow(SettingsPlant):
    """One of the workers computes at 0.7 of the speed of the other."""

    catches = {"M03-34": "between tokens (one at a time)"}
    last_worker = {"worker_args": ("--speedup-ratio", "0.7")}


class OneWorkerIsHeldUp(HeldUp):
    """Something outside stops one of the workers for half of the time, 40 ms each time."""

    catches = {"M03-34": "times as long"}
    stopped_s, runs_s = 0.04, 0.04

    def held(self, deployment: ManagedDeployment) -> Service:
        return deployment.workers[-1]


class OneWorkerStallsNowAndThen(OneWorkerIsHeldUp):
    """Something outside stops one of the workers for 0.7 s in every 6 s."""

    catches = {"M03-36": "stalls again and again"}
    stopped_s, runs_s = 0.7, 5.3


class ConnectionsHeldAtOneWorker(Plant):
    """Somebody holds 400 connections to the system port of one of the workers, and says nothing on them."""

    catches = {"M03-35": "descriptors"}
    COUNT = 400

    def serving(self, deployment: ManagedDeployment) -> None:
        worker = deployment.workers[-1]
        argv = [worker.node.python, "-c", HOLDS_CONNECTIONS, worker.node.address, str(worker.system_port)]
        worker.node.spawn("holds-connections", [*argv, str(self.COUNT)], env={})


class CardOfOneWorkerRewritten(Plant):
    """Another client of etcd rewrites the model card of one of the workers: another context length."""

    catches = {"M03-31": "context_length differs"}
    CONTEXT_LENGTH = 4096

    def serving(self, deployment: ManagedDeployment) -> None:
        worker = deployment.registered_workers()[-1]
        key = require(worker.card_key, f"model card of worker {worker.hex_id}")
        card = key.json()
        card["card_json"]["context_length"] = self.CONTEXT_LENGTH
        with deployment.etcd_client() as etcd:
            etcd.put(key.name, json.dumps(card), lease_id=key.lease_id)


class OneWorkerHasAnotherTemplate(Plant):
    """One of the workers serves the model with another chat template, so that the frontend refuses one of them."""

    catches = {"M03-30": "prompt_formatter", "M03-31": "prompt_formatter"}

    def workers(self, workers: list[Worker]) -> list[Worker]:
        last = workers[-1]
        name = last.model.path.rpartition("/")[2]
        copy = f"{last.node.workdir}/other-template/{name}"
        within = Deadline(60, "a copy of the model")
        last.node.run(["mkdir", "-p", copy.rpartition("/")[0]], deadline=within)
        last.node.run(["cp", "-r", last.model.path, copy], deadline=within)
        last.node.run(["sed", "-i", "s/assistant/helper/", f"{copy}/tokenizer_config.json"], deadline=within)
        last.model = ServedModel(copy, last.model.dummy_weights)
        return workers

    def asked(self, workers: list[Worker]) -> list[Worker]:
        return []  # the frontend leaves out whichever came second


class OneWorkerCountsWrong(CorruptingProxy):
    """A proxy in front of the frontend adds a completion token to the counts of one of the workers."""

    catches = {"M03-32": "completion_tokens differs"}
    worker = 0

    def serving(self, deployment: ManagedDeployment) -> None:
        self.worker = deployment.registered_workers()[-1].instance_id
        super().serving(deployment)

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        served = (body.get("nvext") or {}).get("worker_id") or {}
        if served.get("decode_worker_id") == self.worker and body.get("usage"):
            body["usage"]["completion_tokens"] += 1
        return body


class OneWorkerHasOtherWeights(Plant):
    """One of the workers loads other weights, from the same path where no other one is on its node."""

    catches = {"M03-33": "log probabilities differ"}
    may_catch = {"M03-31": "source_path differs"}
    nightly = True
    inventory = "lab-vllm"

    def workers(self, workers: list[Worker]) -> list[Worker]:
        *others, last = workers
        if any(each.node is last.node for each in others):
            last.model = replace(last.model, path=of_other_weights(last.node, last.model.path))
        else:
            other_weights_in_place(last.node, last.model.path)
        return workers
