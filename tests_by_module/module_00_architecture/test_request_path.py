"""The path of a request, hop by hop."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.served import require_all_served
from fixtures.cluster.inventory.model import Inventory
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_00_architecture.request_path import RequestPath, workers_on_the_way


@check(
    "M00-07",
    judged="over six requests, counters of frontend, router and each worker move by exactly what was sent and by "
    "what the answers name; where prefill and decode are separate, the router and the workers by twice that",
    evidence="what each hop counted",
    by_hand="curl FRONTEND/metrics | grep requests_total",
    causes=[48],
)
@pytest.mark.needs("system_port")
def test_requests_pass_every_hop_once(
    request_path: RequestPath, deployment: Deployment, inventory: Inventory, evidence: Evidence
):
    """The frontend counts each request once; the router and each worker on its path count it once, too."""
    path = request_path
    passed = path.sent * workers_on_the_way(inventory)
    evidence.table(
        "what each hop counted",
        ["hop", "requests"],
        [
            ["sent", path.sent],
            ["frontend", path.frontend],
            ["router", "not counted by this version" if path.router is None else path.router],
            *[[f"worker {w:x}", n] for w, n in path.workers.items()],
        ],
    )
    require_all_served(path.answers)
    assert sum(path.served_by.values()) == passed, (
        f"expected {passed} workers to be named by {path.sent} answers, got {sum(path.served_by.values())}: "
        f"{path.served_by}"
    )
    expected = {"frontend": path.sent, **{f"worker {w:x}": n for w, n in path.served_by.items()}}
    counted = {"frontend": path.frontend, **{f"worker {w:x}": n for w, n in path.workers.items()}}
    if path.router is not None:
        expected["router"], counted["router"] = passed, path.router
    if inventory.cluster.dynamo_managed:
        idle = {name: 0 for name in counted if name not in expected}
        wrong = {
            name: f"moved by {counted.get(name, 0):g}, not {n}"
            for name, n in (expected | idle).items()
            if counted.get(name) != n
        }
    else:  # others may be sending, too
        wrong = {
            name: f"moved by {counted.get(name, 0):g}, less than {n}"
            for name, n in expected.items()
            if counted.get(name, 0) < n
        }
    Findings(f"{name} {text}" for name, text in wrong.items()).judge(about=f"counters over {path.sent} requests")
