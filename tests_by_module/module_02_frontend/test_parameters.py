"""What parameters of a request do, each by its effect and not by the status."""

import json

import pytest

from fixtures.basics.check import check
from fixtures.basics.measure import Measure
from fixtures.clients.inference import InferenceEndpoint, complete, stream
from fixtures.product.deployments.deployment import Deployment

MESSAGES = [{"role": "user", "content": "Tell a story about a fox."}]
TEXT = "The quick brown fox"
# nearly every word has one of the vowels, and nearly every sentence this one
COMMON, VOWELS = "e", ["a", "e", "i", "o", "u"]
WITH_0 = "a\0b"
# texts: among so many some have two vowels in one token
STOPPED = 64
MANY_TOKENS = 64
# a format leaves open how much white space there is and, of required tools, how many calls: a model with random weights
# ends neither of its own accord, and does when each repetition makes a token less likely
FORMATTED = {"max_tokens": 512, "temperature": 0, "frequency_penalty": 2}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["fox", "dog"]}},
    "required": ["animal"],
    "additionalProperties": False,
}


@check(
    "M02-08",
    judged="`max_tokens` and `max_completion_tokens`, streamed and whole: tokens counted, finish reason `length`",
    by_hand="curl FRONTEND/v1/chat/completions -d '{…, \"max_tokens\": 7}'",
    causes=[62, 64],
)
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_generation_ends_at_the_limit(limit: str, endpoint: InferenceEndpoint):
    """A chat ends after exactly as many tokens as allowed, streamed and whole, with the finish reason length."""
    for send in (complete, stream):
        for asked in (1, 7):
            answer = send(endpoint, MESSAGES, ignore_eos=True, **{limit: asked})
            assert answer.ok, answer.describe()
            told = answer.counted("completion_tokens"), answer.finish_reasons
            assert told == (asked, ["length"]), (
                f"{send.__name__}, {limit} {asked}: {told[0]} completion tokens, finish reason {told[1]}"
            )


@check(
    "M02-09",
    judged="it is not in the text, finish reason `stop`, fewer tokens than the limit",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "stop": "e"}\'',
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.6",
    shows="Internal server error|Failed to fold completions stream|Service temporarily unavailable|"
    r"ended without \[DONE\]|peer closed connection|Stream ended before generation completed",
    reason="Where a stop sequence ends a text of the mocker, the frontend takes it for a lost worker: HTTP 500 or a "
    "broken stream, and 500 or 503 to what follows.",
    engine="mocker",
)
@pytest.mark.usefixtures("served_again")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_stop_sequence_ends_the_text(streamed: bool, endpoint: InferenceEndpoint):
    """The text ends before the stop sequence, with the finish reason stop and before the limit."""
    send = stream if streamed else complete
    # without ignore_eos: Dynamo then ignores stop sequences as well
    answer = send(endpoint, TEXT, max_tokens=MANY_TOKENS, stop=COMMON)
    assert answer.ok, answer.describe()
    assert answer.finish_reasons == ["stop"], (
        f"with the stop sequence {COMMON!r}: finish {answer.finish_reasons}, not stop"
    )
    assert COMMON not in answer.text, f"the text {answer.text!r} holds the stop sequence {COMMON!r}"
    used = answer.counted("completion_tokens")
    assert used < MANY_TOKENS, f"expected fewer than {MANY_TOKENS} generated tokens, got {used}"


@check(
    "M02-32",
    judged="none of five stop sequences is in any of 64 texts",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "stop": ["a", "e", "i", "o", "u"]}\'',
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.0,<1.6",
    shows="HTTP 500, Failed to generate completions",
    reason="More than four stop sequences are answered with 500 instead of 400.",
)
@pytest.mark.known_defect(
    issue="dynamo PR#14848",
    versions=">=1.6,<1.7",
    shows="texts hold a stop sequence",
    reason="When one token contains several stop sequences, the first in the request's list wins, not the "
    "earliest in the text.",
    sometimes=True,  # an engine may choose no such token
)
@pytest.mark.usefixtures("served_again")
def test_earliest_of_several_stop_sequences_ends_the_text(endpoint: InferenceEndpoint):
    """With several stop sequences the text ends before the earliest of them."""
    answer = complete(endpoint, [TEXT] * STOPPED, max_tokens=MANY_TOKENS, stop=VOWELS)
    assert answer.ok, answer.describe()
    choices = answer.body["choices"]
    ends = [choice["finish_reason"] for choice in choices]
    assert ends == ["stop"] * STOPPED, f"{STOPPED} prompts were sent, expected stop for each, got {ends}"
    kept = [choice["text"] for choice in choices if any(vowel in choice["text"] for vowel in VOWELS)]
    assert not kept, f"{len(kept)} of {STOPPED} texts hold a stop sequence: {kept[:5]}"


@check(
    "M02-10",
    judged="three prompts in one completion: three choices, usage over all",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "prompt": ["a", "b", "c"]}\'',
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.3",
    shows="usage reports 4 completion tokens, three prompts of 4 were asked for|instance_id=[0-9]+ not found",
    reason="The usage of a completion of several prompts counts the answer to one of them; after M02-09 it is refused.",
)
def test_each_prompt_of_a_request_gets_its_choice(endpoint: InferenceEndpoint):
    """A completion of three prompts has three choices with text, and usage over all of them."""
    answer = complete(endpoint, ["a fox", "a dog", "a cat"], max_tokens=4, ignore_eos=True)
    assert answer.ok, answer.describe()
    indices = sorted(choice["index"] for choice in answer.body["choices"])
    assert indices == [0, 1, 2], f"three prompts were sent, the choices are {indices}"
    assert all(choice["text"] for choice in answer.body["choices"]), "a choice has no text"
    used = answer.counted("completion_tokens")
    assert used == 3 * 4, f"usage reports {used} completion tokens, three prompts of 4 were asked for"


@check(
    "M02-11",
    judged="the indexes of the choices of a chat with n = 3",
    by_hand="curl FRONTEND/v1/chat/completions -d '{…, \"n\": 3}'",
)
@pytest.mark.needs("real_engine", role="worker")
def test_n_choices_are_given(endpoint: InferenceEndpoint):
    """With n = 3 a chat has three choices."""
    answer = complete(endpoint, MESSAGES, max_tokens=8, n=3, temperature=1)
    assert answer.ok, answer.describe()
    indices = sorted(choice["index"] for choice in answer.body["choices"])
    assert indices == [0, 1, 2], f"n was 3, the choices are {indices}"


@check(
    "M02-12",
    judged="same seed, same text; three others not all that text",
    by_hand="send the same request with the same and with other seeds",
)
@pytest.mark.needs("real_engine", role="worker")
def test_seed_decides_the_text(endpoint: InferenceEndpoint):
    """The same seed gives the same text, and three other seeds don't all give that text as well."""
    sent = [complete(endpoint, MESSAGES, max_tokens=24, temperature=1, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert all(answer.ok for answer in sent), [answer.describe() for answer in sent if not answer.ok]
    first, again, *others = [answer.text for answer in sent]
    assert first == again, f"seed 1 gave {first!r} and then {again!r}"
    assert any(other != first for other in others), (
        f"at temperature 1 the seeds 1, 2, 3 and 4 all give {first!r}, expected another text for one of them"
    )


@check(
    "M02-13",
    judged="text of the same request at temperature 0, streamed and whole",
    by_hand="send the same request at temperature 0 with and without stream",
    causes=[61],
)
@pytest.mark.needs("real_engine", role="worker")
def test_streamed_text_equals_whole_text(endpoint: InferenceEndpoint):
    """At temperature 0 the streamed text is the whole text."""
    whole, streamed = (send(endpoint, MESSAGES, max_tokens=32, temperature=0) for send in (complete, stream))
    assert whole.ok and streamed.ok, f"{whole.describe()}; {streamed.describe()}"
    assert whole.text, "the answer is empty: nothing to compare"
    assert whole.text == streamed.text, f"whole: {whole.text!r}, streamed: {streamed.text!r}"


@check(
    "M02-35",
    judged="prompt tokens equal, generated tokens nearly (a model may spell otherwise than its tokenizer), streamed "
    "and whole",
    evidence="measurement",
    by_hand="compare usage with what the model's tokenizer makes of the text",
    causes=[62],
)
@pytest.mark.needs("real_engine", role="worker")
@pytest.mark.needs("system_port")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_usage_is_the_tokenizers(streamed: bool, deployment: Deployment, endpoint: InferenceEndpoint, measure: Measure):
    """Usage reports the tokens that the model's own tokenizer counts in prompt and answer."""
    tokenizer = deployment.tokenizer()
    send = stream if streamed else complete
    answer = send(endpoint, TEXT, max_tokens=MANY_TOKENS, temperature=0, ignore_eos=True)
    assert answer.ok, answer.describe()
    told, counted = answer.counted("prompt_tokens"), tokenizer.count(TEXT)
    assert told == counted, f"usage reports {told} prompt tokens, the tokenizer counts {counted}"
    # a model is free to choose a spelling that its tokenizer would not, and to end in the middle of a character
    told, counted = answer.counted("completion_tokens"), tokenizer.count_generated(answer.text)
    measure("completion_tokens_off_percent", 100 * abs(told - counted) / told, n=told)
    measure.judge()


@check(
    "M02-46",
    judged="prompt tokens of a text with the character 0 in it, against the tokenizer of the inventory's model",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "prompt": "a\\u0000b", "max_tokens": 1}\'',
    causes=[62],
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.1,<1.7",
    shows="usage reports [0-9]+ prompt tokens, the tokenizer counts",
    reason="The frontend takes the character 0 out of prompts, so that the model gets another text.",
)
def test_character_0_stays_in_the_prompt(deployment: Deployment, endpoint: InferenceEndpoint):
    """The character 0 in a prompt reaches the model, as its tokenizer encodes it."""
    answer = complete(endpoint, WITH_0, max_tokens=1)
    assert answer.ok, answer.describe()
    told, counted = answer.counted("prompt_tokens"), deployment.model_files().tokenizer().count(WITH_0)
    assert told == counted, f"{WITH_0!r}: usage reports {told} prompt tokens, the tokenizer counts {counted}"


@check(
    "M02-14",
    judged="one for each token, alternatives in order, none above 0",
    by_hand='curl FRONTEND/v1/chat/completions -d \'{…, "logprobs": true, "top_logprobs": 3}\'',
)
@pytest.mark.needs("real_engine", role="worker")
def test_logprobs_are_given(endpoint: InferenceEndpoint):
    """Each token has its log probability, no greater than 0, and three alternatives, the best of them first."""
    answer = complete(endpoint, MESSAGES, max_tokens=8, temperature=0, ignore_eos=True, logprobs=True, top_logprobs=3)
    assert answer.ok, answer.describe()
    tokens = (answer.body["choices"][0].get("logprobs") or {}).get("content") or []
    assert len(tokens) == 8, f"8 tokens were generated, {len(tokens)} have log probabilities"
    for token in tokens:
        values = [each["logprob"] for each in token["top_logprobs"]]
        assert token["logprob"] <= 0 and len(values) == 3 and values == sorted(values, reverse=True), (
            f"expected a logprob of at most 0 and three alternatives, best first, got {token}"
        )


@check(
    "M02-15",
    judged="the text is JSON of the schema that was sent",
    by_hand="curl FRONTEND/v1/chat/completions -d '{…, \"response_format\": {…}}'",
)
@pytest.mark.needs("real_engine", role="worker")
def test_response_format_is_kept(endpoint: InferenceEndpoint):
    """With a JSON schema as response format the text is JSON of that schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    answer = complete(endpoint, MESSAGES, response_format=wanted, **FORMATTED)
    assert answer.ok, answer.describe()
    try:
        parsed = json.loads(answer.text)
    except ValueError:
        raise AssertionError(f"the text is not JSON: {answer.text!r}") from None
    assert isinstance(parsed, dict) and list(parsed) == ["animal"], f"not of the schema that was sent: {parsed}"


@check(
    "M02-16",
    judged="name, arguments that are JSON, finish reason `tool_calls`; streamed and whole",
    by_hand="curl FRONTEND/v1/chat/completions -d '{…, \"tools\": […]}'",
    causes=[60, 61],
)
@pytest.mark.needs("real_engine", role="worker")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_required_tool_is_called(streamed: bool, endpoint: InferenceEndpoint):
    """With tool_choice required, the tool is called with JSON arguments and finish reason tool_calls."""
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    send = stream if streamed else complete
    answer = send(endpoint, question, tools=[TOOL], tool_choice="required", **FORMATTED)
    assert answer.ok, answer.describe()
    parts = [choice.get("message") or choice.get("delta") or {} for p in answer.parts for choice in p["choices"]]
    calls: dict[int, list[dict[str, str]]] = {}
    for part in parts:
        for number, call in enumerate(part.get("tool_calls") or []):
            calls.setdefault(call.get("index", number), []).append(call["function"])
    assert calls, f"the tool was not called; the text is {answer.text!r}"
    for pieces in calls.values():
        names = [piece["name"] for piece in pieces if piece.get("name")]
        assert names == ["weather"], f"expected a call of the tool weather, got {names}"
        arguments = "".join(piece.get("arguments") or "" for piece in pieces)
        assert "city" in json.loads(arguments), f"the arguments {arguments!r} name no city"
    assert answer.finish_reasons == ["tool_calls"], f"finish reasons {answer.finish_reasons}, expected one: tool_calls"
