"""The figures of the baseline are the servers' and not our client's: another client sees the same."""

from functools import partial
from math import nan
from statistics import mean

import pytest

from fixtures.baseline.run_set import target_of_replicas
from fixtures.baseline.second_client import AIPERF, OURS, in_turns
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.load.workloads import parts
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.services.vllm_server import VllmServer
from fixtures.run import Run

pytestmark = [pytest.mark.needs("managed", why="next_to"), pytest.mark.needs("real_engine"), pytest.mark.performance]

WORKLOAD = "mixed"


@check(
    "M09-07",
    judged="both send the same load in turns, twice each: every request is completed with the tokens that were asked "
    "for; AIPerf's TTFT, ITL and throughput over ours",
    evidence="figures of both",
    by_hand="aiperf profile --streaming with two --url, and --custom-dataset-type inputs-json",
)
def test_aiperf_sees_what_our_client_sees(
    run: Run, servers: list[VllmServer], client: Equipment, profile: str, measure: Measure, evidence: Evidence
):
    """AIPerf completes the same requests with the same tokens as our client, and as fast."""
    part = parts(profile, WORKLOAD)[-1]  # the longest prompts at the highest load
    aiperf = run.tool("aiperf", client.node)
    files = run.equipment()[servers[0].node.name].model_files()
    as_sent = partial(run.at, "module_09.second_client")
    seen = list(in_turns(target_of_replicas(servers, client), part, aiperf, files.texts, as_sent))
    evidence.table(
        f"{part.point}, in turns",
        ["figure", *(each.client for each in seen)],
        [(name, *(f"{each.figures.get(name, nan):.4g}" for each in seen)) for name in seen[-1].figures],
    )
    wrong = [sentence for each in seen for sentence in each.wrong()]
    Findings(wrong[:5]).judge(f"{len(wrong)} requests")

    def ratio(name: str) -> float:
        theirs, ours = (mean(each.figures[name] for each in seen if each.client == who) for who in (AIPERF, OURS))
        return theirs / ours

    count = sum(len(each.asked) for each in seen)
    measure("aiperf_ttft_p50_of_ours", ratio("ttft_ms_p50"), n=count)
    measure("aiperf_itl_p50_of_ours", ratio("itl_ms_p50"), n=count)
    measure("aiperf_throughput_of_ours", ratio("output_tokens_per_s"), n=count)
    measure.judge()
