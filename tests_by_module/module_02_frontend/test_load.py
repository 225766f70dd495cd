"""Many at once."""

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.inference import InferenceEndpoint
from fixtures.load.from_here import COMPLETED, FAILED, HUNG, outcomes, run_load
from fixtures.load.plan import plan
from fixtures.run import Run

STREAMS = 256
PROMPT_TOKENS, OUTPUT_TOKENS = (5, 300), (4, 64)
ENDS_WITHIN_S = 60
# as many as may be sent in this time to a deployment that runs already
ATTACHED_FOR_S = 10


@check(
    "M02-30",
    judged="prompts and limits of different lengths; every usage is its own request's; completed + failed + hung = "
    "sent; attached: those of 10 s at `dynamo_attached_load`",
    evidence="each stream, measurements",
    by_hand="aiperf profile … --concurrency 256 --request-count 256",
    causes=[23, 34, 62],
)
def test_256_streams_get_their_own_answers(run: Run, endpoint: InferenceEndpoint, measure: Measure, evidence: Evidence):
    """256 streams at once all complete, each with the usage of its own prompt and limit, and none hangs."""
    cluster = run.inventory.cluster
    streams = STREAMS if cluster.dynamo_managed else min(STREAMS, cluster.dynamo_attached_load * ATTACHED_FOR_S)
    requests = plan(run.seed, streams, PROMPT_TOKENS, OUTPUT_TOKENS)
    records = run_load(endpoint, requests, concurrency=streams, within_s=ENDS_WITHIN_S)
    evidence.table(
        "streams",
        ["request", "prompt tokens", "max_tokens", "outcome", "usage", "first token s", "s"],
        [
            [r.planned.number, len(r.planned.prompt), r.planned.max_tokens, r.outcome, r.answer.usage,
             r.answer.first_token_s, round(r.answer.duration_s, 3)]
            for r in records
        ],
    )  # fmt: skip
    ends = outcomes(records)
    if cluster.dynamo_managed:
        measure("streams_completed", ends[COMPLETED], n=len(records))
        measure("last_stream_ended_s", max(record.answer.duration_s for record in records), n=len(records))
    else:
        measure("streams_that_were_allowed", len(records))
    assert len(records) == ends[COMPLETED] + ends[FAILED] + ends[HUNG], f"sent {len(records)}, ended {dict(ends)}"
    bad = [record.describe() for record in records if record.outcome != COMPLETED]
    assert not bad, f"{len(bad)} of {streams} streams did not complete, {dict(ends)}; the first: {bad[0]}"
    mixed = []
    for record in records:
        wanted = (len(record.planned.prompt), record.planned.max_tokens)
        told = (record.answer.usage or {}).get("prompt_tokens"), (record.answer.usage or {}).get("completion_tokens")
        if told != wanted:
            mixed.append(f"request {record.planned.number} has {wanted} prompt and completion tokens, its usage {told}")
    assert not mixed, f"{len(mixed)} of {streams} streams have another usage than was asked for; the first: {mixed[0]}"
    measure.judge()
