"""Who speaks on the deployment's subjects besides its workers, and what stands in the way of what they say."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_05_messaging.events import Published, blocks_stored, strangers


@check(
    "M05-26",
    judged="publisher and worker of every KV event under a known load: each worker is registered in etcd and has one "
    "publisher, each publisher speaks for one worker",
    evidence="table of publishers",
    by_hand="nats sub 'namespace.*.component.*.endpoint.*.kv-events'; etcdctl get --prefix v1/instances/",
    causes=[21, 28],
)
@pytest.mark.needs("nats_events")
def test_only_registered_workers_publish_kv_events(deployment: Deployment, published: Published, evidence: Evidence):
    """Every KV event comes from a registered worker: nobody else publishes on the deployment's subject."""
    registered = {worker.instance_id for worker in deployment.registered_workers(every_model=True)}
    assert published.events, "no KV event was seen under a load: nothing to look at"
    pairs = sorted({(each.publisher, each.worker_id) for each in published.events if each.publisher is not None})
    rows = [(f"{publisher:x}", f"{worker:x}", worker in registered) for publisher, worker in pairs]
    evidence.table("publishers", ["publisher", "speaks for worker", "registered"], rows)
    Findings(strangers(published.events, registered)).judge()


@check(
    "M05-27",
    judged="seconds from the last answer of a known load until all its blocks are published; what is not there after "
    "20 s never comes",
    evidence="measurement",
    by_hand="nats sub 'namespace.*.component.*.endpoint.*.kv-events', and a clock",
    causes=[7],
)
@pytest.mark.needs("nats_events")
def test_kv_events_come_in_time(published: Published, measure: Measure):
    """KV events come soon after their answers: none is late, and none is lost."""
    lost = published.blocks - blocks_stored(published.events)
    assert lost <= 0, (
        f"{lost} of {published.blocks} blocks were not published {published.waited_s:.0f} s after the last answer: "
        "their events are lost, not late"
    )
    measure("last_event_after_answer_s", published.waited_s, n=published.blocks)
    measure.judge()
