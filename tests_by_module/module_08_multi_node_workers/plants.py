"""Plants that prove the checks of module 08."""

from dataclasses import replace
from signal import SIGSTOP

from fixtures.basics.deadline import Deadline, pause
from fixtures.faults import Fault, Killed
from fixtures.plants.engines import other_weights_in_place
from fixtures.plants.plant import EnvPlant, Plant, SettingsPlant, point, with_env
from fixtures.plants.processes import ELSEWHERE, JoiningWorkerCrashes, move_elsewhere
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.multi_node_engine import ParallelPlan
from fixtures.product.services.dynamo import Worker


class NodeThatGetsNoRequests(SettingsPlant):
    """The worker of one node serves a model that nobody asks for."""

    catches = {"M08-01": "no request was served on"}
    failures = (18,)
    inventory = "lab"
    last_worker = {"model_name": "a-model-that-nobody-asks-for"}


class WorkerOnManagementAddress(Plant):
    """The worker of one node registers the node's address on the management network."""

    catches = {
        "M00-04": "data address",
        "M04-14": "management address",
        "M08-02": "not the data address of a node",
        "M08-03": "data_link_of_request_bytes",
        "M08-07": "not the data address",
    }
    failures = (73, 79)
    inventory = "lab"

    def workers(self, workers: list[Worker]) -> list[Worker]:
        address = workers[-1].node.spec.dynamo_management_address
        assert address is not None
        with_env(workers[-1], {"DYN_TCP_RPC_HOST": address})
        return workers


class InterfaceThatIsNotThere(EnvPlant):
    """A worker is started with NCCL_SOCKET_IFNAME set to an interface that its node does not have."""

    catches = {"M08-07": "there is no interface eth77"}
    failures = (73,)
    inventory = "lab"
    env = {"NCCL_SOCKET_IFNAME": "eth77"}


class HostIpLinkLocal(EnvPlant):
    """A worker is started with VLLM_HOST_IP set to a link-local address."""

    catches = {"M08-07": "link-local"}
    failures = (73,)
    inventory = "lab"
    env = {"VLLM_HOST_IP": "169.254.7.7"}


class ScaleInByKilling(JoiningWorkerCrashes):
    """A worker that is to leave under load dies on SIGTERM at once."""

    catches = {"M08-05": "broken_off_requests"}
    failures = (21,)
    nightly = True
    inventory = "lab"
    on = ("module_08.scaling",)


class JoinsInOtherNamespace(SettingsPlant):
    """A worker that joins under load registers in another namespace."""

    catches = {"M08-04": "does not serve", "M08-05": "does not serve"}
    failures = (18, 28)
    nightly = True
    inventory = "lab"
    on = ("module_08.scaling",)
    joining_worker = {"namespace": "somewhere_else"}


class SmallNodeNotSmaller(SettingsPlant):
    """The worker that is to take one request at a time takes as many as the other."""

    catches = {"M08-06": "small_of_fair_share"}
    inventory = "lab"
    on = ("module_08.capacity*",)
    worker = {"worker_args": ()}


class RankLeftOut(Plant):
    """In the plan of an engine over all nodes, the last node has no rank."""

    catches = {"M08-08": "the ranks are on"}
    failures = (74,)
    inventory = "lab"

    @point("module_08.plan")
    def leave_out(self, plan: ParallelPlan) -> ParallelPlan:
        return replace(plan, ranks=plan.ranks[:-1])


class MasterOnManagementAddress(Plant):
    """In the plan of an engine over all nodes, the master's address is on the management network."""

    catches = {"M08-08": "not the data address of the node of rank 0"}
    failures = (74, 79)
    inventory = "lab"

    @point("module_08.plan")
    def move_master(self, plan: ParallelPlan) -> ParallelPlan:
        _, port = plan.master
        own = plan.ranks[0].member.facts
        others = (link["addresses"] for name, link in own.links.items() if name not in ("lo", own.data_interface))
        other = next(addresses[0] for addresses in others if addresses)
        return replace(plan, master=(other, port))


class RankOfOtherWeights(Plant):
    """Of an engine over all nodes, the rank on the second one loads a model of the same name with other weights.

    The other weights stay in place, so the second check finds them, too.
    """

    catches = {"M08-20": "the answer is", "M08-21": "the answer is"}
    nightly = True
    inventory = "lab-vllm"
    on = ("module_08.spanning",)
    in_place = False

    def joining(self, worker: Worker) -> Worker:
        if worker.name == "rank-1" and not self.in_place:
            other_weights_in_place(worker.node, worker.model.path)
            self.in_place = True
        return worker


class MigrationLimitNotPassedOn(SettingsPlant):
    """The frontend is started without --migration-limit."""

    catches = {"M08-32": "were lost"}
    inventory = "lab"
    on = ("module_08.migrated",)
    frontend = {"frontend_args": ()}


class StreamTimeoutNotPassedOn(SettingsPlant):
    """The frontend is started without DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS."""

    catches = {"M08-37": "streams_end_after_loss_s", "M08-41": "streams_end_after_loss_s"}
    failures = (23,)
    nightly = True
    inventory = "lab"
    on = ("module_08.partitioned-timed", "module_08.off-timed")
    frontend = {"extra_env": ()}


class StreamTimeoutByDefault(SettingsPlant):
    """Frontends have a stream timeout by default, which hides a known defect of the version."""

    catches = {"M08-36": "unexpectedly passes", "M08-40": "unexpectedly passes"}
    nightly = True
    inventory = "lab"
    on = ("module_08.partitioned", "module_08.off")
    frontend = {"extra_env": (("DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS", "2"),)}


class LeaseOfAMinute(SettingsPlant):
    """Leases last a minute, so no process ends during an outage, which hides a known defect of the version."""

    catches = {"M08-38": "unexpectedly passes", "M08-46": "unexpectedly passes"}
    nightly = True
    inventory = "lab"
    on = ("module_08.partitioned", "module_08.etcd-elsewhere")
    frontend = worker = {"lease_ttl_s": 60}


class _Lingers(Killed):
    """Falls silent at first, and dies when the fault is about to be healed."""

    # besides the second that the fault lasts; the frontend gives up by itself after 5 s, with another error
    SECONDS = 2

    def inject(self) -> None:
        self.service.require_process().signal(SIGSTOP)

    def effect(self) -> str | None:
        return None

    def heal(self) -> None:
        pause(self.SECONDS, "it to linger")
        self.service.kill()
        super().heal()


class KilledWorkerLingers(Plant):
    """A worker that is killed under load falls silent first, and dies 3 s later."""

    catches = {"M08-30": "streams_end_after_kill_s"}
    failures = (20, 23)
    inventory = "lab"

    @point("module_08.fault")
    def linger(self, fault: Fault, name: str, deployment: ManagedDeployment) -> Fault:
        return _Lingers(deployment.workers[1]) if name == "worker_killed" else fault


class _WorkerDiesAsWell(Plant):
    """The deployment's last worker is killed when the fault of this name is there."""

    fault = ""

    @point("module_08.fault")
    def with_worker(self, fault: Fault, name: str, deployment: ManagedDeployment) -> Fault:
        if name == self.fault:
            given, victim = fault.inject, deployment.workers[-1]

            def inject() -> None:
                given()
                victim.kill()

            fault.inject = inject  # type: ignore[method-assign]
        return fault


class WorkerDiesOfShortPartition(_WorkerDiesAsWell):
    """A worker ends when it is cut off, although its lease has not run out."""

    catches = {"M08-33": "were lost"}
    failures = (16,)
    inventory = "lab"
    fault = "short_partition"


class WorkerDiesOfSlowLink(_WorkerDiesAsWell):
    """A worker ends when its link is slow."""

    catches = {"M08-34": "were lost"}
    nightly = True
    inventory = "lab"
    fault = "slow_link"


class WorkerDiesWithNats(_WorkerDiesAsWell):
    """A worker ends when NATS does."""

    catches = {"M08-35": "were lost"}
    nightly = True
    inventory = "lab"
    fault = "nats_lost"


class WorkerDiesWithEtcd(_WorkerDiesAsWell):
    """A worker ends when etcd is away for less than its lease."""

    catches = {"M08-45": "were lost"}
    failures = (16,)
    nightly = True
    inventory = "lab"
    fault = "etcd_lost"


class SecondFrontendElsewhere(Plant):
    """The frontend that a client fails over to serves another namespace."""

    catches = {"M08-43": "while the first frontend was away"}
    failures = (28,)
    nightly = True
    inventory = "lab"

    @point("module_08.fault")
    def move_second(self, fault: Fault, name: str, deployment: ManagedDeployment) -> Fault:
        if name == "frontend_lost":
            second = deployment.frontends[1]
            second.kill()
            second.settings = second.settings.but(namespace=ELSEWHERE)
            second.start(Deadline(60, "the second frontend, elsewhere"))
        return fault


class WorkerReturnsElsewhere(Plant):
    """A worker that comes back after a fault does so in another namespace."""

    catches = {"M08-31": "return_s", "M08-39": "return_s", "M08-42": "return_s"}
    failures = (20, 28)
    nightly = True
    inventory = "lab"

    @point("module_08.fault")
    def move(self, fault: Fault, name: str, deployment: ManagedDeployment) -> Fault:
        if name in ("worker_killed", "long_partition_with_timeout", "node_off"):
            move_elsewhere(deployment.workers[1:])
        return fault


class ControlPlaneReturnsElsewhere(Plant):
    """A frontend comes back in another namespace after a fault, and so do all workers after the loss of etcd."""

    catches = {"M08-44": "return_s", "M08-47": "recovery_s"}
    failures = (28,)
    nightly = True
    inventory = "lab"

    @point("module_08.fault")
    def move(self, fault: Fault, name: str, deployment: ManagedDeployment) -> Fault:
        if name == "frontend_lost":
            move_elsewhere(deployment.frontends[:1])
        if name == "etcd_lost_for_long":
            move_elsewhere(deployment.workers)
        return fault


NOT_PLANTED = {"M08-48": "Every version of Dynamo that was run fails it without a plant."}
