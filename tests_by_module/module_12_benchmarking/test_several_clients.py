"""One load from several client machines: more than one of them can send, and still one measurement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest

from fixtures.basics.check import check
from fixtures.basics.dynamo_versions import MetricNames
from fixtures.basics.errors import NotMeasured
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.accounts import less_exact
from fixtures.benchmark.sending import Sent, counted_since
from fixtures.benchmark.sizes import Sizes
from fixtures.benchmark.together import Pooled, aiperf_together, send_together
from fixtures.clients.prometheus import Metrics
from fixtures.cluster.probes.pace import paces
from fixtures.load.formulas import figure
from fixtures.load.from_node import LoadResult
from fixtures.load.refused import busy_percent, by_client, of_machine, starved
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
# so long that the seconds by which two starts of AIPerf differ are 1 % of it
LONG_S = 240


@check(
    "M12-16",
    judged="every node with the role client sends half of a load or less, all at once: within what time they "
    "began, which may be 1 % of the time in which all of them sent; how many clients are less exact than `fixtures "
    "calibrate` says, and one that is the bottleneck is refused, and with it every number; requests and tokens against "
    "the frontend's counters; percentiles of all records together, throughput over the common time",
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
    counted, _ = counted_since(deployment, before, len(together.requests))
    reasons, refused = wrong_with_clients(loads)
    measure("loads_beyond_stated_error", less_exact(reasons, "client", evidence), n=len(loads))
    shares = {name: it.client.cpu_share_max for name, it in loads.items()}
    judge_one_load(together, counted, names, measure, evidence, refused, shares)


@check(
    "M12-19",
    judged="every node with the role client runs AIPerf with half of a load or less, all at once and for three "
    "minutes or more: within what time they began, which may be 1 % of the time in which all of them sent; requests "
    "and tokens against the frontend's counters; how busy the processors of the clients' nodes were; a node whose "
    "processors were slow or its host's is refused, and with it every number; percentiles of all records together, "
    "throughput over the common time",
    evidence="table of clients",
    by_hand="aiperf profile on each client at once, and all profile_export.jsonl together",
)
@pytest.mark.nightly
def test_aiperf_on_several_clients_is_one_measurement(
    run: Run,
    seed: int,
    deployment: Deployment,
    sweep: Sequence[Sent],
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf on several client machines sends one load, and its raw records are pooled."""
    clients = [run.equipment()[spec.name] for spec in run.inventory.with_role("client")]
    tools = [run.tool("aiperf", client.node) for client in clients]
    names = deployment.settings.dialect.metrics
    below = sweep[1]
    count = math.ceil(LONG_S * below.requests_per_s / len(clients))
    each = max(1, (below.plan.concurrency or 1) // len(clients))
    plans = [replace(sizes.at_once(each, seed + 700 + number), count=count) for number in range(len(clients))]
    nodes = {client.node.name: client.node for client in clients}
    before, begin = deployment.frontend_metrics(), paces(nodes)
    texts, model = deployment.model_files().texts, deployment.settings.model_name
    together = aiperf_together(clients, tools, deployment.load_url, model, plans, texts, 4 * LONG_S)
    end = paces(nodes)
    counted, _ = counted_since(deployment, before, len(together.requests))
    seen = {name: (begin.get(name), end.get(name)) for name in nodes}
    refused = [f"{name}: {why}" for name, each in seen.items() if (why := of_machine(*each))]
    busy = [percent for each in seen.values() if (percent := busy_percent(*each)) is not None]
    measure("client_node_busy_percent", max(busy, default=None), n=len(busy))
    judge_one_load(together, counted, names, measure, evidence, refused)


def wrong_with_clients(loads: Mapping[str, LoadResult]) -> tuple[list[list[str]], list[str]]:
    """Of each client why it is less exact than `fixtures calibrate` says, if it is; and those that were starved."""
    why_less_exact, refused = [], []
    for name, load in loads.items():
        itl_ms = figure(load.requests, "itl_ms", 50).value or 0.0
        why_less_exact.append([f"{name}: {why}" for why in by_client(load.client, itl_ms)])
        if why := starved(load.client, itl_ms):
            refused.append(f"{name}: {why}")
    return why_less_exact, refused


def judge_one_load(
    together: Pooled,
    counted: Metrics,
    names: MetricNames,
    measure: Measure,
    evidence: Evidence,
    refused: Sequence[str],
    shares: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Whether the pooled records are of one load, and all that the frontend has counted meanwhile.

    Raises NotMeasured where a client is `refused`: what it saw is no number. `shares`: of its core, by client.
    """
    loads = {**together.by_client, "all, pooled": together.requests}
    ttft_ms_p95 = {name: figure(requests, "ttft_ms", 95).value for name, requests in loads.items()}
    rows = [
        (
            name,
            len(requests),
            sum(each.output_tokens for each in requests),
            ttft_ms_p95[name] or "too few",
            shares.get(name, ""),
        )
        for name, requests in loads.items()
    ]
    tokens = sum(each.output_tokens for each in together.requests)
    evidence.table("clients", ["client", "requests", "tokens", "TTFT p95, ms", "share of its core"], rows)
    Findings(filter(None, [together.why_not_one_load()])).judge("these are not records of one load")
    wrong = Findings([str(each) for each in together.requests if each.outcome != COMPLETED][:3])
    requests, told = counted.total_or_zero(names.frontend_requests), counted.total_or_zero(names.frontend_output_tokens)
    if requests != len(together.requests):
        wrong.add(f"the clients have {len(together.requests)} records, and the frontend counted {requests:g} requests")
    if told != tokens:
        wrong.add(f"usage has {tokens} tokens, and the frontend counted {told:g}")
    wrong.judge()
    if refused:
        raise NotMeasured("\n".join(refused))
    measure("began_apart_percent", 100 * together.apart_s / together.long_s, n=len(together.by_client))
    measure("output_tokens_per_s", together.tokens_per_s, n=len(together.inside))
    measure("ttft_ms_p95", ttft_ms_p95["all, pooled"], n=len(together.requests))
    measure.judge()
