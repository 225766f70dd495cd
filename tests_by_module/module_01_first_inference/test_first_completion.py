"""From nothing to the first token, and whether what is served is counted right."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.inference import Answer, complete, stream
from fixtures.clients.tokenizer import ModelTokenizer
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_01_first_inference.prompts import MAX_TOKENS, PROMPT, PROMPTS


@check(
    "M01-05",
    judged="times of control plane, processes, first token and their sum against thresholds",
    evidence="parts of the cold start, measurements",
    by_hand="time curl FRONTEND/v1/completions -d '{…, \"max_tokens\": 1}'",
)
@pytest.mark.needs("managed", why="breaks")
def test_cold_start_to_first_token(deployment: Deployment, measure: Measure, evidence: Evidence):
    """The time from the start of etcd to the first token is within its bounds, in every part."""
    parts = {phase.what: phase.duration_s for phase in deployment.phases}
    evidence.table("parts of the cold start", ["part", "seconds"], parts.items())
    measure("control_plane_ready_s", parts["etcd and NATS ready"])
    measure("processes_ready_s", parts["frontend and workers ready"])
    measure("first_token_after_registration_s", parts["first token"])
    measure("cold_start_s", sum(parts.values()))
    measure.judge()


@check(
    "M01-06",
    judged="text, one finish reason `length`, usage that adds up",
    by_hand="curl FRONTEND/v1/completions -d '{…}'",
    causes=[51],
)
@pytest.mark.smoke
def test_first_completion(plain_answer: Answer):
    """A completion has text, finishes by length, and its usage adds up."""
    assert plain_answer.ok, plain_answer.describe()
    assert plain_answer.text, f"the answer has no text: {plain_answer.describe()}"
    assert plain_answer.finish_reasons == ["length"], (
        f"finish reasons {plain_answer.finish_reasons}, expected one: length"
    )
    usage = plain_answer.usage
    assert usage, f"the answer has no usage: {plain_answer.describe()}"
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"], (
        f"usage does not add up: {usage}"
    )


@check(
    "M01-07",
    judged="several chunks with text, one finish reason, usage last, `[DONE]`",
    by_hand="curl -N FRONTEND/v1/completions -d '{…, \"stream\": true}'",
    causes=[59, 60],
)
def test_first_completion_streamed(streamed_answer: Answer):
    """A streamed completion arrives in several chunks, then one finish reason, usage and [DONE]."""
    answer = streamed_answer
    assert answer.status == 200, answer.describe()
    assert answer.done, f"the stream ended without [DONE] after {len(answer.chunks)} chunks"
    assert answer.error is None, f"an error came inside the stream: {answer.error}"
    with_text = [chunk for chunk in answer.chunks if any(choice.get("text") for choice in chunk.get("choices", []))]
    assert len(with_text) > 1, f"of {MAX_TOKENS} tokens {len(with_text)} chunks have text, expected more than one"
    assert answer.finish_reasons == ["length"], f"finish reasons {answer.finish_reasons}, expected one: length"
    assert answer.chunks[-1].get("usage"), "the last chunk before [DONE] carries no usage, which was asked for"


@check(
    "M01-08",
    judged="`usage.prompt_tokens`, plain and streamed, for a word, a sentence, Unicode, a chat, a long prompt, "
    "whitespace and special tokens, against the tokenizer of the inventory's model",
    by_hand="compare usage.prompt_tokens with the model's tokenizer",
    causes=[62],
)
@pytest.mark.needs("system_port")
@pytest.mark.parametrize("kind", PROMPTS)
def test_prompt_tokens_are_the_tokenizers(kind: str, deployment: Deployment, tokenizer: ModelTokenizer):
    """usage.prompt_tokens, plain and streamed, equals the count of the inventory's model's tokenizer."""
    expected = tokenizer.count(PROMPTS[kind])
    for send in (complete, stream):
        answer = send(deployment.endpoint, PROMPTS[kind], max_tokens=1)
        assert answer.ok, answer.describe()
        told = answer.counted("prompt_tokens")
        assert told == expected, f"{send.__name__}: usage reports {told} prompt tokens, the tokenizer counts {expected}"


@check(
    "M01-09",
    judged="1, 17 and 64 tokens under `ignore_eos`, plain and streamed, counted exactly",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "max_tokens": 17, "ignore_eos": true}\'',
    causes=[62, 64],
)
@pytest.mark.parametrize("asked", [1, 17, 64])
def test_completion_tokens_are_those_asked_for(asked: int, deployment: Deployment):
    """With ignore_eos, plain and streamed, exactly max_tokens tokens are generated and counted."""
    for send in (complete, stream):
        answer = send(deployment.endpoint, PROMPT, max_tokens=asked, ignore_eos=True)
        assert answer.ok, answer.describe()
        told = answer.counted("completion_tokens")
        assert told == asked, f"{send.__name__}: usage reports {told} completion tokens, {asked} were asked for"


@check(
    "M01-10",
    judged="the same prompt at temperature 0 twice gives the same text",
    by_hand="send the same prompt twice at temperature 0",
    causes=[34],
)
@pytest.mark.needs("real_engine", role="worker")
def test_greedy_answers_repeat(deployment: Deployment):
    """The same prompt at temperature 0 gives the same text twice."""
    first, second = (complete(deployment.endpoint, PROMPT, max_tokens=32, temperature=0) for _ in range(2))
    assert first.ok and second.ok, f"{first.describe()}; {second.describe()}"
    assert first.text, "the answer is empty: nothing to compare"
    assert first.text == second.text, f"one prompt gave {first.text!r} and then {second.text!r}"
