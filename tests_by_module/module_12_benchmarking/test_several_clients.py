"""One load from several client machines: more than one of them can send, and still one measurement."""

from dataclasses import replace

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.percentiles import percentile
from fixtures.benchmark.sending import Sent, tail
from fixtures.benchmark.sizes import Sizes
from fixtures.benchmark.together import send_together
from fixtures.load.request import COMPLETED
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.needs("clients"),
    pytest.mark.performance,
]
REQUESTS_EACH = 150


@check(
    "M12-16",
    judged="every node with the role client sends half of a load or less, all at once: within what time they "
    "began, which may be 1 % of the time in which all of them sent; requests and tokens against the frontend's "
    "counters; percentiles of all records together, throughput over the common time",
    evidence="table of clients",
    by_hand="aiperf profile on each client at once, and all profile_export.jsonl together",
)
def test_several_clients_are_one_measurement(
    run: Run, seed: int, deployment: Deployment, warm: Sent, sizes: Sizes, measure: Measure, evidence: Evidence
):
    """Several client machines send one load, begun together, and their records are pooled."""
    clients = [run.equipment()[spec.name] for spec in run.inventory.with_role("client")]
    names = deployment.settings.dialect.metrics
    plans = [
        replace(sizes.at_once(max(1, sizes.concurrency[1] // 2), seed + 400 + number), count=REQUESTS_EACH)
        for number in range(len(clients))
    ]
    late_s = run.at("module_12.clients_late_s", [0.0] * len(clients))
    before = deployment.frontend_metrics()
    together, loads = send_together(clients, deployment.load_url, deployment.settings.model_name, plans, late_s)
    counted = deployment.frontend_metrics().since(before)
    ttft_ms = {
        name: [1000 * each.ttft_s for each in own if each.ttft_s is not None and each.outcome == COMPLETED]
        for name, own in together.by_client.items()
    }
    rows: list[tuple[object, ...]] = [
        (
            name,
            len(own),
            sum(each.output_tokens for each in own),
            percentile(ttft_ms[name], 95),
            loads[name].client.cpu_share_max,
        )
        for name, own in together.by_client.items()
    ]
    tokens = sum(each.output_tokens for each in together.requests)
    every = [value for own in ttft_ms.values() for value in own]
    rows.append(("all, pooled", len(together.requests), tokens, tail(every, 95), ""))
    evidence.table("clients", ["client", "requests", "tokens", "TTFT p95, ms", "share of its core"], rows)
    Findings(filter(None, [together.why_not_one_load()])).judge("these are not records of one load")
    wrong = Findings([str(each) for each in together.requests if each.outcome != COMPLETED][:3])
    requests, told = counted.total_or_zero(names.frontend_requests), counted.total_or_zero(names.frontend_output_tokens)
    if requests != len(together.requests):
        wrong.add(f"the clients have {len(together.requests)} records, and the frontend counted {requests:g} requests")
    if told != tokens:
        wrong.add(f"usage has {tokens} tokens, and the frontend counted {told:g}")
    wrong.judge()
    measure("began_apart_percent", 100 * together.apart_s / together.long_s, n=len(clients))
    measure("output_tokens_per_s", together.tokens_per_s, n=len(together.inside))
    measure("ttft_ms_p95", tail(every, 95), n=len(every))
    measure.judge()
