"""More and more requests in flight: all are accounted for, and where throughput ends is found."""

from collections.abc import Callable, Sequence

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import NotMeasured, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.accounts import wrong_with
from fixtures.benchmark.chart import curve, of_a_user, pareto
from fixtures.benchmark.knee import Knee
from fixtures.benchmark.sending import Sent, batches, by_worker_itl_ms, mean, pauses_of_itl, tail
from fixtures.benchmark.slo import named
from fixtures.cluster.inventory.model import Inventory
from fixtures.kv.engine_counters import phases_of
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_12_benchmarking.loads import TAILS_UP_TO, Arriving

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
]
PARTS = 8
LATENCY = "latency_from_due_ms"
TOLD = 5  # sentences on requests that are alike


@check(
    "M12-03",
    judged="of every load: requests sent against records kept and against the frontend's counter; tokens asked for "
    "against usage and the frontend's counter; failed requests, each named",
    evidence="table of counts",
    by_hand="curl FRONTEND/metrics | grep -E 'requests_total|output_tokens_total', before and after",
)
def test_every_request_and_token_is_accounted_for(
    deployment: Deployment, warm: Sent, sweep: Sequence[Sent], evidence: Evidence, measure: Measure
):
    """Every request that is sent is answered and counted once, with the tokens that it asked for."""
    wrong, rows = Findings(), []
    for each in (warm, *sweep):
        account, said = wrong_with(each, deployment.settings.dialect.metrics)
        rows.append((each.name, *account))
        wrong.extend(said[:TOLD])
    header = ["load", "sent", "records", "completed", "counted by the frontend", "tokens asked", "usage", "counted"]
    evidence.table("requests and tokens", header, rows)
    measure("requests", sum(each.sent for each in (warm, *sweep)), n=1)
    wrong.judge()


@check(
    "M12-04",
    judged="the concurrency of the greatest power (throughput over response time), with lower and higher ones "
    "measured, else it is not covered; throughput there, and what of it is held at the highest concurrency; up to the "
    "knee neither half of a load is faster than the other",
    evidence="curve, Pareto picture, table",
    by_hand="aiperf profile --concurrency N, for N = 1, 4, 16 …",
)
def test_knee_is_found_and_throughput_is_held_beyond_it(
    inventory: Inventory, profile: str, sweep: Sequence[Sent], found_knee: Knee, evidence: Evidence, measure: Measure
):
    """The sweep finds the knee, and beyond it throughput does not collapse."""
    gpus = sum(len(spec.dynamo_gpus) for spec in inventory.with_role("worker"))
    workers = sum(len(spec.worker_types) for spec in inventory.nodes)
    units, unit = (gpus, "GPU") if gpus else (max(1, workers), "worker")
    columns: dict[str, Callable[[Sent], object]] = {
        "load": lambda it: it.name,
        "requests/s": lambda it: it.requests_per_s,
        "tokens/s": lambda it: it.tokens_per_s,
        f"tokens/s of each {unit}": lambda it: it.tokens_per_s / units,
        "tokens/s of a user (p50)": of_a_user,
        "TTFT, ms": lambda it: mean(it.ttft_ms),
        "ITL, ms": lambda it: mean(it.itl_ms),
        "latency mean, ms": lambda it: mean(it.latency_ms),
        "latency p95, ms": lambda it: it.tail(LATENCY, 95) or "too few",
    }
    evidence.table("sweep", [*columns], [[of(each) for of in columns.values()] for each in sweep])
    evidence.svg("throughput and latency", curve(sweep, found_knee))
    drifts = {each.name: each.unsteady for each in sweep if (each.plan.concurrency or 0) <= found_knee.at.concurrency}
    steady = [(name, "too few requests" if told is None else told or "steady") for name, told in drifts.items()]
    evidence.table("up to the knee", ["load", "its two halves"], steady)
    level = inventory.cluster.dynamo_slo
    tpot_ms = named(level, inventory.path).tpot_ms if level else None
    evidence.svg("users and deployment", pareto(sweep, found_knee, units, unit, tpot_ms), overview=True)
    at = next(each for each in sweep if each.plan.concurrency == found_knee.at.concurrency)
    highest = found_knee.at.requests_per_s
    measure("knee_concurrency", found_knee.at.concurrency, n=len(sweep))
    measure("requests_per_s_at_knee", highest, n=len(at.completed), of=at.name)
    parts = at.parts(PARTS)
    measure("output_tokens_per_s_at_knee", at.tokens_per_s, n=len(at.completed), repeats=parts, of=at.name)
    below, beyond = sweep[1], sweep[-1]  # wherever the knee is found; a sweep may end early, and `of` says where
    ttft_ms, itl_ms, parts = below.ttft_ms, beyond.itl_ms, beyond.parts(PARTS)
    measure("ttft_ms_below_knee", mean(ttft_ms), n=len(ttft_ms), repeats=batches(ttft_ms, PARTS), of=below.name)
    measure("itl_ms_beyond_knee", mean(itl_ms), n=len(itl_ms), repeats=batches(itl_ms, PARTS), of=beyond.name)
    measure("output_tokens_per_s_beyond_knee", beyond.tokens_per_s, n=len(itl_ms), repeats=parts, of=beyond.name)
    measure("steady_loads", list(drifts.values()).count(""), n=len(drifts))
    Findings(f"{name}: {told}" for name, told in drifts.items() if told).judge()
    measure("throughput_held", sweep[-1].requests_per_s / highest, n=len(sweep[-1].completed))
    measure.judge()
    if not found_knee.bracketed:
        where, more = ("below", "lower or closer") if at is sweep[0] else ("beyond", "higher")
        raise NotMeasured(
            f"the knee lies at or {where} {at.name}, an end of the sweep: dynamo_workloads names a profile with {more} "
            f"`concurrency`, or the profile {profile} gets it in fixtures/benchmark/sizes.yaml"
        )


@check(
    "M12-05",
    judged="at the highest concurrency: how long the frontend's event loop and its queue to the workers keep what is "
    "ready, and the time that its first tokens take to the client; else the frontend is what was measured",
    evidence="table",
    by_hand="curl FRONTEND/metrics | grep -E 'event_loop_delay|request_plane_queue|time_to_first_token'",
)
def test_frontend_is_not_the_limit(
    inventory: Inventory, deployment: Deployment, sweep: Sequence[Sent], evidence: Evidence, measure: Measure
):
    """The workers are the limit, and not the frontend before them."""
    names, rows = deployment.settings.dialect.metrics, []
    phases = phases_of(inventory.runtime(inventory.with_role("worker")[0].worker_runtime).engine)
    for each in sweep:
        ttft_ms, itl_ms = mean(each.ttft_ms), mean(each.itl_ms)
        of_frontend = (each.mean_ms(names.frontend_ttft), each.mean_ms(names.frontend_itl))
        path_ms = None if ttft_ms is None or of_frontend[0] is None else ttft_ms - of_frontend[0]
        loop_ms, queue_ms = each.mean_ms(names.frontend_loop_delay), each.mean_ms(names.request_plane_queue)
        of_engines = (each.engines_ms(histogram) for histogram in phases.values())
        rows.append((each.name, ttft_ms, itl_ms, *of_frontend, *of_engines, loop_ms, queue_ms, path_ms))
    header = ["load", "TTFT of the client, ms", "ITL", "TTFT of the frontend, ms", "ITL"]
    header += [f"{phase} of the engine, ms" for phase in phases]
    header += ["event loop, ms", "queue to workers, ms", "first token's way, ms"]
    evidence.table("client and frontend", header, rows)
    count = len(sweep[-1].completed)  # the last of the rows is of the highest load
    measure("event_loop_delay_ms", loop_ms, n=count)
    measure("request_plane_queue_ms", queue_ms, n=count)
    measure("first_token_way_ms", path_ms, n=count)
    measure.judge()


@check(
    "M12-06",
    judged="at the knee: the slowest worker's median time of a token over the fastest one's, of all that decode",
    evidence="table of workers",
    by_hand="compare the workers' inter_token_latency_seconds",
)
@pytest.mark.needs("peers")
def test_workers_are_alike(
    deployment: Deployment, sweep: Sequence[Sent], found_knee: Knee, evidence: Evidence, measure: Measure
):
    """No worker is slower than the others: a mean over both would hide it."""
    at = next(each for each in sweep if each.plan.concurrency == found_knee.at.concurrency)
    itl = by_worker_itl_ms(at.completed)
    component = deployment.settings.dialect.worker_component["decode"]  # aggregated workers have it as well
    decoding = [each.instance_id for each in deployment.registered_workers() if each.component == component]
    evidence.table(
        "workers",
        ["worker", "median ITL, ms", "requests"],
        [(f"{w:x}", itl.get(w), at.workers.get(w)) for w in decoding],
    )
    if len(decoding) < 2:
        raise NotOffered("fewer than two workers decode: dynamo_roles and dynamo_workers give more of one type")
    told = sorted(itl[worker] for worker in decoding if worker in itl)
    complete = len(told) == len(decoding) and told[0] > 0
    measure("slower_worker_itl_ratio", told[-1] / told[0] if complete else None, n=len(at.completed))
    measure.judge()


@check(
    "M12-07",
    judged="at the lowest concurrency: chunks with tokens for each token, how much later than the frontend the client "
    "sees first tokens, and the longest pause over the mean time of a token, of all requests but one; that of mockers "
    "also at 75 % of the knee's rate (p95), where an engine that computes pauses for others' prompts",
    evidence="table",
    by_hand="curl -N FRONTEND/v1/completions with stream",
)
def test_tokens_come_one_by_one_as_they_are_made(
    deployment: Deployment, sweep: Sequence[Sent], arriving: Arriving, evidence: Evidence, measure: Measure
):
    """Each token reaches the client by itself, when it is made, and none is held back."""
    first, at = sweep[0], arriving.by_percent[TAILS_UP_TO]
    chunks = [len(each.tokens_at_s) / each.output_tokens for each in first.completed if each.output_tokens]
    seen, told = mean(first.ttft_ms), first.mean_ms(deployment.settings.dialect.metrics.frontend_ttft)
    pauses = [1000 * each.longest_gap_s for each in at.completed if each.longest_gap_s is not None]
    alone = pauses_of_itl(first.completed)[:-1]  # one may be the machine's
    evidence.table(
        "the stream",
        ["load", "TTFT of the client, ms", "TTFT of the frontend, ms", "longest pauses p95, ms", "ITL, ms"],
        [(first.name, seen, told, "", mean(first.itl_ms)), (at.name, "", "", tail(pauses, 95), mean(at.itl_ms))],
    )
    evidence.table(
        "pauses of one request at a time", ["longest over its mean time of a token"], [(each,) for each in alone]
    )
    measure("chunks_a_token", mean(chunks), n=len(chunks))
    measure("ttft_beyond_frontend_ms", None if seen is None or told is None else seen - told, n=len(first.completed))
    measure("longest_pause_alone_of_itl", alone[-1] if alone else None, n=len(first.completed))
    longest, usual = tail(pauses, 95), mean(at.itl_ms)
    measure("longest_pause_of_itl_p95", longest / usual if longest is not None and usual else None, n=len(pauses))
    measure.judge()
