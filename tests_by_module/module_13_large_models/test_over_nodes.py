"""Architectures of large models in one engine, on one node and over all: right, as predicted, and nothing is left."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.product.deployments.ranks import REPLICAS
from fixtures.run import Run
from tests_by_module.module_13_large_models.over_nodes import TOGETHER, Seen
from tests_by_module.module_13_large_models.sizing import GIB, Declared, compared_with_log

pytestmark = [
    pytest.mark.needs("multi_node"),
    pytest.mark.needs("managed", why="settings"),
    pytest.mark.needs("real_engine", role="worker"),
    pytest.mark.needs("weights", "vllm", "float32"),
    pytest.mark.long_wait(together=True),
]


@check(
    "M13-10",
    judged="each model of `dynamo_spread_models` in each layout: on one node, compiled there, by tensor and by "
    "pipeline over all nodes, disaggregated where there is NIXL. Tokens and log probabilities of 24 answers against "
    "transformers",
    evidence="comparison of each answer",
    by_hand="dynamo.vllm --nnodes 2 --node-rank 0|1 --tensor-parallel-size 2; ask at temperature 0; generate with "
    "transformers from the same folder",
)
def test_answers_are_those_of_transformers(seen: Seen, measure: Measure, evidence: Evidence):
    """The model loads in this layout, and its greedy answers equal those of transformers."""
    judge_answers(seen, measure, evidence)


def judge_answers(seen: Seen, measure: Measure, evidence: Evidence) -> None:
    every = [(nonce, each) for nonce, answers in seen.answers.items() for each in answers.compared]
    rows = [[nonce, each.prompt, each.verdict, each.describe()] for nonce, each in every]
    evidence.table("answers against transformers", ["round", "prompt", "verdict", "seen"], rows)
    short = [each.describe() for _, each in every if each.verdict == "cut short"]
    assert not short, f"{len(short)} answers are cut short: {short[0]}"
    measure("logprob_gap_max", max(answers.logprob_gap for answers in seen.answers.values()), n=len(every))
    measure("logprob_error_max", max(answers.logprob_error for answers in seen.answers.values()), n=len(every))
    measure.judge()


@check(
    "M13-11",
    judged="what vLLM's log says of this load against the calculator: weights within 3 %, bytes of KV a token and, "
    "where its size was not given, memory and tokens within 15 %",
    evidence="predicted and seen",
    by_hand="uv run python -m fixtures fit MODEL --inventory PATH --layout TP2 --log FILE",
)
def test_load_is_as_predicted(seen: Seen, declared: Declared, run: Run, evidence: Evidence):
    """Weights and KV of the fullest rank are as large as the calculator predicts."""
    rows = compared_with_log(run, declared, seen)
    evidence.table(
        "predicted and seen",
        ["what", "unit", "predicted", "seen", "may differ by"],
        [[each.what, each.unit, f"{each.predicted:.6g}", f"{each.seen:.6g}", f"{each.within:.0%}"] for each in rows],
    )
    if not rows:
        raise NotOffered("this engine's log says neither how large its weights are nor how much KV it has room for")
    wrong = [
        f"{each.what}: {each.seen:.6g} {each.unit}, and {each.predicted:.6g} are predicted"
        for each in rows
        if not each.holds
    ]
    Findings(wrong).judge()


@check(
    "M13-12",
    judged="seconds from the start of the first rank's process: imports, weights, KV and warm-up as the log of the "
    "engine says them, registration, first token",
    evidence="measurements",
    by_hand="grep -E 'Loading weights took|init engine' LOG",
)
def test_start_takes_no_longer_than_expected(seen: Seen, measure: Measure):
    """The engine is registered and gives its first token in time; how long each phase takes is kept."""
    startup = seen.startup
    if startup.imported_s is not None:
        measure("imported_s", startup.imported_s)
    if startup.weights_s is not None:
        measure("weights_s", startup.weights_s)
    if startup.kv_s is not None:
        measure("kv_s", startup.kv_s)
    measure("registered_s", startup.registered_s)
    measure("first_token_s", startup.first_token_s)
    measure.judge()


@check(
    "M13-13",
    judged="after SIGTERM to all ranks: every process that they had started has ended; memory available on each node "
    "before the start, while it serves, and after its end",
    evidence="memory of each node",
    by_hand="ps -eo pid,ppid,rss,args | grep VLLM::; grep MemAvailable /proc/meminfo",
)
def test_nothing_of_an_engine_is_left(seen: Seen, measure: Measure, evidence: Evidence):
    """After its end no process of an engine is left, and its memory is free again."""
    rows = [[name, *(f"{each / GIB:.2f}" for each in amounts)] for name, amounts in seen.memory.items()]
    evidence.table("memory available, GiB", ["node", "before", "serving", "after"], rows)
    measure("gib_not_back", max(before - after for before, _, after in seen.memory.values()) / GIB)
    Findings(seen.left).judge()
    measure.judge()


@check(
    "M13-14",
    judged="DeepSeek's attention on one node with all of vLLM's own operators (`custom_ops: [all]`), as "
    "`--enforce-eager` chooses: tokens and log probabilities of 24 answers against transformers",
    evidence="comparison of each answer",
    by_hand='dynamo.vllm --enforce-eager --compilation-config \'{"custom_ops": ["all"]}\'',
)
@pytest.mark.nightly
@pytest.mark.known_defect(
    issue="vllm, not reported",
    versions=">=1.6,<1.7",
    shows=r"logprob_gap_max",
    reason="vLLM's CPU build (0.31 and 0.32) answers wrongly for latent attention with its own rotary operator, as "
    "under --enforce-eager. The runtime dynamo-1.6.1-vllm-cpu switches it off.",
    engine="vllm",
)
def test_latent_attention_answers_right_with_own_operators(uncured: Seen, measure: Measure, evidence: Evidence):
    """A model with latent attention answers right with all of the engine's own operators."""
    judge_answers(uncured, measure, evidence)


@check(
    "M13-15",
    judged="the first model twice on one node, the second start after the end of the first: what is left of each, "
    "its answers against transformers, seconds to registration",
    evidence="comparison of each answer",
    by_hand="start it, SIGTERM, start it again",
)
def test_a_second_start_is_like_the_first(twice: list[Seen], measure: Measure, evidence: Evidence):
    """An engine that is started again after its end finds nothing of itself, and answers right."""
    first, again = twice
    Findings(dict.fromkeys([*first.left, *again.left])).judge()
    measure("second_registered_of_first", again.startup.registered_s / first.startup.registered_s)
    judge_answers(again, measure, evidence)


@check(
    "M13-17",
    judged="the first model in one engine, in one on each node, and in one over all nodes by tensor and by pipeline: "
    "tokens a second of one request and of sixteen at once, over those of one engine",
    evidence="table of layouts",
    by_hand="vllm bench serve --max-concurrency 1, and 16, against each launch of `python -m fixtures fit MODEL`",
)
@pytest.mark.nightly
def test_layouts_are_compared(side_by_side: dict[str, Seen], measure: Measure, evidence: Evidence):
    """Replicas serve no less than one engine, and how fast each layout is stands side by side."""
    evidence.table(
        "tokens a second by layout",
        ["layout", "one request", f"{TOGETHER} at once", "seconds to registration"],
        [
            [name, f"{each.speed.alone:.1f}", f"{each.speed.together:.1f}", f"{each.startup.registered_s:.1f}"]
            for name, each in side_by_side.items()
        ],
    )
    one = side_by_side["one-node"].speed
    measure("replicas_of_one_together", side_by_side[REPLICAS].speed.together / one.together, n=TOGETHER)
    measure("tensor_of_one_alone", side_by_side["tensor"].speed.alone / one.alone)
    measure("tensor_of_one_together", side_by_side["tensor"].speed.together / one.together, n=TOGETHER)
    measure("pipeline_of_one_alone", side_by_side["pipeline"].speed.alone / one.alone)
    measure("pipeline_of_one_together", side_by_side["pipeline"].speed.together / one.together, n=TOGETHER)
    measure.judge()
