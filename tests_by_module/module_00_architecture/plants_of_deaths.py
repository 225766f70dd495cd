"""Plants that kill a process: the check in which it ends says which, and what stands on it is blocked by that check."""

from fixtures.plants.plant import Plant, point
from fixtures.plants.processes import killed_by_somebody
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment


class EtcdKilled(Plant):
    """Somebody kills etcd as soon as the deployment serves."""

    catches = {"M00-02": "etcd on local (process"}

    def serving(self, deployment: ManagedDeployment) -> None:
        killed_by_somebody(deployment.etcd)


class NatsKilled(Plant):
    """Somebody kills NATS as soon as the deployment serves."""

    catches = {"M00-02": "nats on local (process"}

    def serving(self, deployment: ManagedDeployment) -> None:
        killed_by_somebody(deployment.nats)


class WorkerKilledLate(Plant):
    """Somebody kills a mocker after all other checks; the other one takes its requests."""

    catches = {"M00-18": "ended by itself with signal 9 (SIGKILL)"}

    @point("module_00.at_end")
    def at_end(self, deployment: Deployment) -> Deployment:
        assert isinstance(deployment, ManagedDeployment)
        killed_by_somebody(deployment.workers[-1])
        return deployment
