"""Plants whose cause stands written where the deployment runs: in a log, a limit or an alarm."""

from contextlib import ExitStack, closing, suppress

from fixtures.basics.deadline import Deadline
from fixtures.clients.etcd import Etcd as EtcdClient
from fixtures.clients.etcd import EtcdUnavailable
from fixtures.clients.nats import connected
from fixtures.plants.plant import Plant, SettingsPlant, with_argv
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.control_plane import Etcd, Nats


class BeforeDynamoStarts(Plant):
    """Something happens to a server as soon as it is ready, and before the frontend and the workers start."""

    def befalls(self, server: Etcd | Nats) -> None:
        raise NotImplementedError

    def once_ready(self, server: Etcd | Nats) -> None:
        given = server.wait_until_ready

        def then(deadline: Deadline) -> None:
            given(deadline)
            self.befalls(server)

        server.wait_until_ready = then  # type: ignore[method-assign]


class EtcdQuotaFilled(BeforeDynamoStarts):
    """Another client of etcd fills its database up to the quota."""

    catches = {"M00-02": "etcd refuses every write (alarm NOSPACE)"}
    nightly = True

    QUOTA_BYTES, VALUE = 4_000_000, "x" * 400_000

    def planned(self, deployment: ManagedDeployment) -> None:
        with_argv(deployment.etcd, lambda argv: [*argv, "--quota-backend-bytes", str(self.QUOTA_BYTES)])
        self.once_ready(deployment.etcd)

    def befalls(self, server: Etcd | Nats) -> None:
        with closing(EtcdClient(server.url)) as client, suppress(EtcdUnavailable):
            for number in range(500):  # the quota counts what is written to disk, every 100 ms
                client.put(f"filling/{number}", self.VALUE)


class NatsConnectionsUsedUp(BeforeDynamoStarts):
    """Other clients of NATS hold as many connections as it allows."""

    catches = {"M00-02": "NATS has 4 connections, and its max_connections is 4"}
    nightly = True

    MOST = 4

    def __init__(self) -> None:
        self.held = ExitStack()

    def planned(self, deployment: ManagedDeployment) -> None:
        deployment.nats.config = f"max_connections: {self.MOST}\n"
        self.once_ready(deployment.nats)

    def befalls(self, server: Etcd | Nats) -> None:
        for _ in range(self.MOST):
            self.held.enter_context(connected(server.url))

    def undo(self) -> None:
        self.held.close()


class FrontendPortTaken(Plant):
    """A process that has nothing to do with Dynamo listens on the frontend's port."""

    catches = {"M00-02": "another process listens at the address of frontend"}

    def planned(self, deployment: ManagedDeployment) -> None:
        frontend = deployment.frontends[0]
        argv = [frontend.node.python, "-m", "http.server", str(frontend.port), "--bind", frontend.node.address]
        frontend.node.spawn("other-server", argv, env={})


class EtcdWithFewDescriptors(Plant):
    """etcd is started where a process may open 100 files."""

    catches = {"M00-02": 'file descriptors left: "file descriptor limit["'}

    def planned(self, deployment: ManagedDeployment) -> None:
        with_argv(deployment.etcd, lambda argv: ["prlimit", "--nofile=100", *argv])


class FrontendWithoutItsKey(SettingsPlant):
    """The frontend is to speak TLS with a certificate and a key that are not there."""

    catches = {"M00-02": "frontend cannot read its TLS certificate or key"}
    frontend = {"frontend_args": ("--tls-cert-path", "absent.pem", "--tls-key-path", "absent.key")}
