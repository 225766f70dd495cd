"""Servers of vLLM alone: they are there, and all answer rightly."""

import pytest

from fixtures.answers.oracle import HEADERS, Oracle, allowed_gap, control, keep_allowed
from fixtures.baseline.replicas import serving_nodes
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.clients.inference import InferenceEndpoint
from fixtures.product.services.vllm_server import VllmServer
from fixtures.run import Run

pytestmark = [pytest.mark.needs("managed", why="next_to"), pytest.mark.needs("real_engine")]


@pytest.mark.smoke
@check(
    "M09-01",
    judged="each is ready with one token, on its node; same engine, same files of the model (hash); seconds to ready",
    evidence="table of servers",
    by_hand="python -m vllm.entrypoints.openai.api_server --model MODEL",
)
def test_two_servers_serve_without_dynamo(run: Run, servers: list[VllmServer], measure: Measure, evidence: Evidence):
    """Servers serve the same files of the same model by the same engine, one for each worker."""
    rows, kinds = [], set()
    for server in servers:
        equipment = run.equipment()[server.node.name]
        versions = equipment.runtime.versions
        files = equipment.model_files(server.engine_args.model.path)
        kinds.add((files.identity, tuple(sorted(versions.items()))))
        engine = ", ".join(f"{name} {version}" for name, version in versions.items() if name.startswith("vllm"))
        rows.append([server.name, server.node.name, server.url, engine, files.identity[:12], server.ready_after_s])
    evidence.table("servers", ["server", "node", "URL", "engine", "model's files", "ready after, s"], rows)
    ready_s = [require(server.ready_after_s, f"time after which {server.name} was ready") for server in servers]
    measure("ready_s", max(ready_s), n=len(servers))
    declared, found = serving_nodes(run.inventory.nodes), tuple(server.node.name for server in servers)
    assert found == declared, f"servers belong on {' and '.join(declared)}; found on {' and '.join(found)}"
    assert len(kinds) == 1, f"the servers are not alike in their model's files or in their engine: {rows}"
    measure.judge()


@check(
    "M09-02",
    judged="greedy answers to 12 prompts around the boundaries of blocks and up to the longest (8192 tokens at "
    "most), one after the other, and to 12 more at once, against transformers on the same files: how far the "
    "first other token and the log probabilities are off",
    evidence="table of answers",
    by_hand="curl URL/v1/completions with temperature 0 and return_token_ids, on both",
)
@pytest.mark.needs("weights")
def test_both_servers_answer_as_the_reference(
    run: Run, servers: list[VllmServer], oracle: Oracle, measure: Measure, evidence: Evidence
):
    """All servers' greedy answers, one at a time and many at once, equal those of transformers."""
    found = {}
    for server in servers:
        endpoint = InferenceEndpoint(server.node.reach(server.url), server.engine_args.model_name)
        for nonce, differences in control(endpoint, oracle).items():
            found[f"{server.name}, {nonce} prompts"] = differences
            evidence.table(f"answers of {server.name}, {nonce} prompts", HEADERS, oracle.rows(nonce, differences))
    count = sum(len(each.compared) for each in found.values())
    logprob_gap = max(each.logprob_gap for each in found.values())
    logprob_error = max(each.logprob_error for each in found.values())
    if oracle.dtype == "float32":
        measure("logprob_gap", logprob_gap, n=count)
        measure("logprob_error", logprob_error, n=count)
    else:
        measure("logprob_gap_in_16_bits", logprob_gap, n=count)
        measure("logprob_error_in_16_bits", logprob_error, n=count)
    for each in found.values():
        each.require_whole()
    measure.judge()
    keep_allowed(allowed_gap(found.values(), oracle.dtype), run.report_dir)
