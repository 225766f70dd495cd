"""What the frontend says of itself, beside what is so."""

import signal

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.http import client
from fixtures.clients.inference import InferenceEndpoint, complete
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import for_version

KNOWS_WITHIN_S = 10
READINESS = "GET /v1/models/{model_id}/ready"  # in endpoints.yaml


@check(
    "M02-26",
    judged="instances of `/health` and count of `/v1/models/MODEL/ready`, where the version has it, against etcd",
    evidence="both answers",
    by_hand="curl FRONTEND/health; curl FRONTEND/v1/models/MODEL/ready",
    causes=[21, 26],
)
def test_health_names_who_is_registered(
    run: Run, deployment: Deployment, http: httpx.Client, endpoint: InferenceEndpoint, evidence: Evidence
):
    """/health lists exactly the registered workers, and the model's readiness counts the same number."""
    tells_readiness = READINESS in for_version("endpoints.yaml", run.product_version())["endpoints"]
    workers = deployment.registered_workers()
    registered = {worker.instance_id for worker in deployment.registered_workers(every_model=True)}
    health = http.get("/health").raise_for_status().json()
    evidence.text("health", str(health))
    dialect = deployment.settings.dialect
    listed = {
        each["instance_id"]
        for each in health["instances"]
        if each["endpoint"] == dialect.worker_endpoint and each["namespace"] == deployment.settings.namespace
    }
    assert workers, "no worker is registered: nothing to compare"
    assert listed == registered, f"/health lists {sorted(listed)}, registered in etcd are {sorted(registered)}"
    if not tells_readiness:
        return
    ready = http.get(f"/v1/models/{endpoint.model}/ready").raise_for_status().json()
    evidence.text("readiness", str(ready))
    assert ready["ready"] is True, f"{len(workers)} workers are registered, and the readiness is {ready}"
    namespace = ready["namespaces"][deployment.settings.namespace]
    counted = sum(each["workers"] for each in namespace["worker_types"].values())
    assert counted == len(workers), f"readiness counts {counted} workers, registered are {len(workers)}"


@check(
    "M02-27",
    judged="after the last worker left: list, readiness, and a request's answer; what `/health` says is recorded",
    evidence="answers, measurements",
    by_hand="kill the last worker; curl FRONTEND/v1/models",
    causes=[21, 24, 26],
)
@pytest.mark.needs("managed", why="breaks")
def test_model_without_workers_is_not_offered(run: Run, measure: Measure, evidence: Evidence):
    """After the last worker leaves, the model is not listed and not ready, and requests for it fail at once."""
    with run.own_deployment("module_02.leaving") as deployment:
        endpoint = deployment.endpoint
        with client(5, base_url=endpoint.url) as http:
            listed_before = [model["id"] for model in http.get("/v1/models").json()["data"]]
            (worker,) = deployment.workers
            process = worker.require_process()
            clock = Deadline(KNOWS_WITHIN_S, "the model to be taken from the list")
            process.signal(signal.SIGTERM)  # it leaves the list at once, and may take long to end
            try:
                wait_until(lambda: (None if http.get("/v1/models").json()["data"] else True, "listed"), clock)
            except DeadlineExceeded as error:
                raise AssertionError(f"{error}: /v1/models offers a model that nobody serves") from None
            measure("not_listed_after_s", clock.elapsed_s)
            process.wait_until_ended(Deadline(worker.ends_within_s, f"{worker.name} to end after SIGTERM"))
            ready = http.get(f"/v1/models/{endpoint.model}/ready")
            health = http.get("/health")
            answer = complete(endpoint, "anybody there?", max_tokens=1, timeout_s=10)
    evidence.text(
        "without a worker", f"/health: {health.status_code} {health.text}\nready: {ready.status_code} {ready.text}"
    )
    measure("health_says_200_without_a_worker", float(health.status_code == 200))
    assert listed_before == [endpoint.model], f"listed before: {listed_before}"
    assert ready.status_code != 200 or ready.json()["ready"] is False, f"ready without a worker: {ready.text}"
    assert answer.status in (404, 503), f"without a worker: expected status 404 or 503, got {answer.describe()}"
    measure.judge()
