"""Plants that prove the checks of module 04."""

import json
import re
import signal
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.plants.background import Background, LeasesRenewed
from fixtures.plants.lab import OnTheLab, Unreachable
from fixtures.plants.plant import Plant, SettingsPlant, point, with_argv, with_env
from fixtures.plants.processes import JoiningWorkerCrashes
from fixtures.plants.proxy import CorruptingProxy, Exchange
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import ServedModel
from fixtures.product.services.control_plane import Etcd
from fixtures.product.services.dynamo import Frontend, Worker
from tests_by_module.module_04_service_discovery.cards import fetched

STARTS_WITHIN_S = 60
OTHER_LOOPBACK = "127.0.0.2"


class EtcdNotReachableFromOthers(Plant):
    """etcd listens on a loopback address of its own instead of its node's data address."""

    catches = {"M00-04": "data address", "M04-12": "does not reach"}
    failures = (27,)

    def planned(self, deployment: ManagedDeployment) -> None:
        deployment.etcd.listen_address = OTHER_LOOPBACK
        deployment.settings = deployment.settings.but(etcd_url=deployment.etcd.url)
        for each in (*deployment.frontends, *deployment.workers):
            each.settings = each.settings.but(etcd_url=deployment.etcd.url)


class LeaseNotRenewed(Plant):
    """A worker is stopped with SIGSTOP, so that its lease runs out while the process is there."""

    catches = {"M00-03": "missing", "M04-02": "not renewed"}
    failures = (17,)

    def __init__(self) -> None:
        self.victim: Worker | None = None

    def serving(self, deployment: ManagedDeployment) -> None:
        self.victim = deployment.workers[-1]
        self.victim.require_process().signal(signal.SIGSTOP)
        wait_until(
            lambda: (len(deployment.registered_workers()) < len(deployment.workers) or None, "still registered"),
            Deadline(deployment.settings.lease_ttl_s + 10, "the stopped worker's lease to run out"),
        )

    def undo(self) -> None:
        if self.victim and self.victim.is_alive():
            self.victim.require_process().signal(signal.SIGCONT)


class LeaseTtlIgnored(SettingsPlant):
    """A worker asks for a lease of 9 s instead of the one that is set."""

    catches = {"M04-02": "granted for 9 s"}
    last_worker = {"lease_ttl_s": 9}


class StaleInstanceKey(Plant):
    """An instance key without a lease and without a process is left in etcd."""

    catches = {
        "M00-03": "nothing listens",
        "M04-01": "model card",
        "M04-02": "has no lease: nobody removes it",
        "M04-13": "stale",
    }
    failures = (20, 21)

    def serving(self, deployment: ManagedDeployment) -> None:
        template = deployment.registered_workers()[0]
        dead_id = template.instance_id + 0xFFFF
        key = template.instance_key.name.replace(template.hex_id, f"{dead_id:x}")
        # port 9 is "discard": nothing listens there
        value = template.instance_key.value.decode().replace(template.hex_id, f"{dead_id:x}")
        value = value.replace(str(template.instance_id), str(dead_id)).replace(f":{template.port}/", ":9/")
        with deployment.etcd_client() as etcd:
            etcd.put(key, value)


class SecondFrontendBeside(Plant):
    """Somebody starts one more frontend on the deployment's etcd, and nobody declares it."""

    catches = {"M04-24": "dynamo.frontend"}

    def __init__(self) -> None:
        self.stranger: Frontend | None = None

    def serving(self, deployment: ManagedDeployment) -> None:
        known = deployment.frontend
        self.stranger = Frontend("stranger", known.node, known.runtime, known.settings)
        self.stranger.start(Deadline(STARTS_WITHIN_S, "the frontend that nobody declares"))

    def undo(self) -> None:
        if self.stranger and self.stranger.is_alive():
            self.stranger.kill()


class ProxyInFront(CorruptingProxy):
    """A proxy that changes nothing stands where clients take the frontend to be."""

    catches = {"M04-25": "a proxy, gateway or cache"}


class FrontendIgnoresItsNamespace(SettingsPlant):
    """The frontend is started without a namespace, so that it serves those of others as well."""

    catches = {"M04-08": "another namespace"}
    failures = (28,)
    frontend = {"namespace": ""}


class CrashOnSigterm(JoiningWorkerCrashes):
    """A worker that joins dies on SIGTERM without giving back its lease."""

    catches = {"M04-03": "model card", "M04-04": "key_gone_after_sigterm_s"}
    failures = (21,)


class JoiningWorkerGetsNoRequests(SettingsPlant):
    """A worker that joins serves another model, so that it is never given a request."""

    catches = {"M04-07": "to serve a request"}
    joining_worker = {"model_name": "a-model-that-nobody-asks-for"}


class EtcdLosesItsData(Plant):
    """etcd is started again on an empty data directory."""

    catches = {"M04-09": "registrations were lost", "M04-16": "registrations were lost"}
    failures = (16,)

    @point("module_04.restarting")
    def empty(self, etcd: Etcd) -> Etcd:
        etcd.node.run(["rm", "-rf", etcd.data], deadline=Deadline(10, "the data to go"))
        return etcd


class EtcdDataDamaged(Plant):
    """etcd is started again on a data directory that was overwritten while it was away."""

    catches = {"M04-09": "before it was ready", "M04-10": "before it was ready", "M04-16": "before it was ready"}
    failures = (16,)

    @point("module_04.restarting")
    def damage(self, etcd: Etcd) -> Etcd:
        etcd.node.put(f"{etcd.data}/member/snap/db", b"this is no database" * 1000)
        return etcd


class LeaseRenewedByAnother(LeasesRenewed):
    """Something else renews every lease, also those of dead workers."""

    catches = {
        "M04-05": "key_gone_beyond_ttl_s",
        "M04-06": "key_gone_beyond_ttl_s",
        "M04-07": "requests failed",
        "M04-13": "stale",
        "M04-17": "cannot be fetched",
    }
    failures = (20, 21)


class EtcdStalls(Background):
    """etcd is stopped and continued in pulses, as on a disk that stalls.

    A pulse is shorter than a lease, and etcd answers between pulses: nothing is lost, but answers come late. A pulse
    and the time after it are together shorter than the check's series of writes, so that one pulse falls into it.
    """

    catches = {"M04-11": "put_ms_max"}
    failures = (25,)

    STALL_S, BETWEEN_S = 0.9, 1.0

    def go_on(self, deployment: ManagedDeployment) -> None:
        process = deployment.etcd.require_process()
        while not self._ended.wait(self.BETWEEN_S) and process.is_alive():
            process.signal(signal.SIGSTOP)
            self._ended.wait(self.STALL_S)
            process.signal(signal.SIGCONT)


class EtcdSyncsNothing(Plant):
    """etcd runs with --unsafe-no-fsync: what it confirms is in memory, and a crash of its node loses it."""

    catches = {"M04-11": "fsyncs_a_write", "M04-28": "--unsafe-no-fsync=true: what etcd confirms is in memory only"}

    def planned(self, deployment: ManagedDeployment) -> None:
        with_argv(deployment.etcd, lambda argv: [*argv, "--unsafe-no-fsync"])


class DefaultLeaseOfAMinute(SettingsPlant):
    """Leases last a minute instead of Dynamo's default, which hides a known defect of the version."""

    catches = {"M04-16": "unexpectedly passes"}
    on = ("module_04.default-lease",)
    frontend = worker = {"lease_ttl_s": 60}


class EtcdNotReachedFromOneNode(Unreachable):
    """Processes on the node that clients run on may not connect to etcd."""

    catches = {"M04-12": "client-01 does not reach etcd"}
    failures = (27,)

    def planned(self, deployment: ManagedDeployment) -> None:
        self.forbid(self.client, deployment.settings.etcd_url)


class JoiningWorkerOnLoopback(OnTheLab):
    """A worker that joins on a node without the frontend registers 127.0.0.1."""

    catches = {"M04-15": "to serve a request"}
    failures = (27, 73)

    def joining(self, worker: Worker) -> Worker:
        away = worker.node.name == self.victim.name
        return with_env(worker, {"DYN_TCP_RPC_HOST": "127.0.0.1"}) if away else worker


class OtherModelFiles(Plant):
    """Workers are started with an altered copy of the model's folder, those that join later as well."""

    file = ""

    def __init__(self) -> None:
        self._copies: dict[str, ServedModel] = {}

    def workers(self, workers: list[Worker]) -> list[Worker]:
        return [self.joining(worker) for worker in workers]

    def joining(self, worker: Worker) -> Worker:
        node, model = worker.node, worker.model
        if node.name not in self._copies:
            copy = f"{node.workdir}/altered"
            node.run(["cp", "-r", model.path, copy], deadline=Deadline(60, "a copy of the model"))
            content = json.loads(node.get(f"{copy}/{self.file}"))
            node.put(f"{copy}/{self.file}", json.dumps(self.altered(content)).encode())
            self._copies[node.name] = replace(model, path=copy)
        worker.model = self._copies[node.name]
        return worker

    def altered(self, content: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class AnotherTokenizer(OtherModelFiles):
    """Workers are started with a copy of the model whose tokenizer lacks half of its merges."""

    catches = {"M01-08": "the tokenizer counts", "M04-18": "another tokenizer.json"}
    file = "tokenizer.json"

    def altered(self, content: dict[str, Any]) -> dict[str, Any]:
        merges = content["model"]["merges"]
        return content | {"model": content["model"] | {"merges": merges[: len(merges) // 2]}}


class AnotherChatTemplate(OtherModelFiles):
    """Workers are started with a copy of the model whose chat template puts a sentence before each chat."""

    catches = {"M01-08": "the tokenizer counts", "M04-18": "another tokenizer_config.json"}
    file = "tokenizer_config.json"

    def altered(self, content: dict[str, Any]) -> dict[str, Any]:
        return content | {"chat_template": f"Answer in rhymes.\n{content['chat_template']}"}


class ChatTemplateForgets(OtherModelFiles):
    """Workers are started with a copy of the model whose chat template keeps the last message of a chat only."""

    catches = {"M02-47": "the chat template leaves it out", "M04-18": "another tokenizer_config.json"}
    file = "tokenizer_config.json"

    def altered(self, content: dict[str, Any]) -> dict[str, Any]:
        return content | {"chat_template": "{%- set messages = messages[-1:] -%}" + content["chat_template"]}


class AnotherVocabulary(OtherModelFiles):
    """Workers are started with a copy of the model whose configuration has a smaller vocabulary."""

    catches = {"M04-18": "another config.json", "M04-19": "vocabulary 11000"}
    file = "config.json"

    def altered(self, content: dict[str, Any]) -> dict[str, Any]:
        return content | {"vocab_size": 11000}


class CardRewritten(Plant):
    """Another client of etcd rewrites the card of a worker, on its lease."""

    def serving(self, deployment: ManagedDeployment) -> None:
        worker = deployment.registered_workers()[-1]
        assert worker.card and worker.card_key
        value = worker.card_key.json()
        value["card_json"] = self.rewritten(worker.card, deployment)
        with deployment.etcd_client() as etcd:
            etcd.put(worker.card_key.name, json.dumps(value), worker.card_key.lease_id)

    def rewritten(self, card: dict[str, Any], deployment: ManagedDeployment) -> dict[str, Any]:
        raise NotImplementedError


class CardReportsLongerContext(CardRewritten):
    """Another client of etcd rewrites the card of a worker with a context of a million tokens."""

    catches = {"M04-19": "context length 1000000"}

    def rewritten(self, card: dict[str, Any], deployment: ManagedDeployment) -> dict[str, Any]:
        return card | {"context_length": 1_000_000}


class CardNamesAnotherTokenizer(CardRewritten):
    """Another client of etcd rewrites the card of a worker: its tokenizer is at a server that changes two token ids."""

    catches = {"M04-18": "another tokenizer.json"}
    _server: ThreadingHTTPServer | None = None

    def rewritten(self, card: dict[str, Any], deployment: ManagedDeployment) -> dict[str, Any]:
        named = card["tokenizer"]["hf_tokenizer_json"]
        ids = {b"500": b"501", b"501": b"500"}
        other = re.sub(rb'(?<=": )50[01](?=,)', lambda found: ids[found[0]], fetched(named, deployment))

        class Serves(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(other)))
                self.end_headers()
                self.wfile.write(other)

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Serves)
        Thread(target=self._server.serve_forever, daemon=True).start()
        path = f"http://127.0.0.1:{self._server.server_port}/tokenizer.json"
        return card | {"tokenizer": {"hf_tokenizer_json": named | {"path": path}}}

    def undo(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()


class FrontendReportsLongerContext(CorruptingProxy):
    """A proxy in front of the frontend reports a context of a million tokens in the list of models."""

    catches = {
        "M04-19": "the frontend reports the context length 1000000",
        "M04-25": "a proxy, gateway or cache",
    }

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        if exchange.path != "/v1/models":
            return body
        return body | {"data": [each | {"context_window": 1_000_000} for each in body["data"]]}
