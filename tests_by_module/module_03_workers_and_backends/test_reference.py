"""What only an engine with a model can show: that its answers are right."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from tests_by_module.module_03_workers_and_backends.oracle import Compared


@check(
    "M03-11",
    judged="tokens and log probabilities of twelve prompts around a block's boundary against transformers: how far "
    "behind the reference's likeliest token, and how far off",
    evidence="comparison of each answer",
    by_hand="ask at temperature 0; generate with transformers from the same folder",
    causes=[34],
)
@pytest.mark.needs("real_engine", role="worker")
@pytest.mark.needs("weights", "runtime")
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.4,<1.5",
    shows=r"24 token ids and 1 log probabilities",
    reason="With SGLang 0.5.16 an answer that is not streamed has the log probability of its first token alone.",
    engine="sglang",
)
def test_greedy_answers_equal_those_of_transformers(
    compared_by_engine: dict[str, Compared | CouldNotLook], measure: Measure, evidence: Evidence
):
    """An engine's greedy tokens equal those of transformers, one request at a time and many at once."""
    comparable = {name: each for name, each in compared_by_engine.items() if isinstance(each, Compared)}
    compared = [(name, each) for name, against in comparable.items() for each in against.all]
    rows = [(name, each.prompt, each.verdict, each.describe()) for name, each in compared]
    evidence.table("answers against transformers", ["engine", "prompt", "verdict", "seen"], rows)
    untold = [f"{name}: {each}" for name, each in compared_by_engine.items() if isinstance(each, CouldNotLook)]
    assert not untold, f"an answer cannot be compared: {untold[0]}"
    assert compared, "no declared engine computes a model (dynamo_engines), although real_engine is declared"
    short = [f"{name}, {each.describe()}" for name, each in compared if each.verdict == "cut short"]
    assert not short, f"{len(short)} answers are cut short: {short[0]}"
    of_32_bits = [each for name, each in compared if comparable[name].dtype == "float32"]
    of_16_bits = [each for name, each in compared if comparable[name].dtype != "float32"]
    if of_32_bits:
        measure("logprob_gap_max", max(each.logprob_gap for each in of_32_bits), n=len(of_32_bits))
        measure("logprob_error_max", max(each.logprob_error for each in of_32_bits), n=len(of_32_bits))
    if of_16_bits:
        measure("logprob_gap_in_16_bits_max", max(each.logprob_gap for each in of_16_bits), n=len(of_16_bits))
        measure("logprob_error_in_16_bits_max", max(each.logprob_error for each in of_16_bits), n=len(of_16_bits))
    measure.judge()
    untold = [f"{name}, {each.prompt}: {each.untold}" for name, each in compared if each.untold]
    assert not untold, f"{len(untold)} answers were compared by their tokens alone: {untold[0]}"
