"""Streams: how they are framed, in which order their parts come, when, and what they say at the end."""

import json

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.redact import tail
from fixtures.clients.inference import Answer, InferenceEndpoint, complete, stream

MESSAGES = [{"role": "user", "content": "Tell a story about a fox."}]
PROMPTS: dict[str, str | list[dict[str, str]]] = {"chat": MESSAGES, "completion": "The quick brown fox"}
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
OBJECTS = {"chat": "chat.completion.chunk", "completion": "text_completion"}
MAX_TOKENS = 12
# enough chunks to tell a burst from a stream
LONG_TOKENS = 100
ROLE_IN_EACH = pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.5",
    shows="the role is not in the first chunk alone",
    reason="Every chunk of a chat has the role, and not the first alone.",
)
kinds = pytest.mark.parametrize("kind", PROMPTS)


@check(
    "M02-04",
    judged="one line of data an event, one id, `[DONE]` once and last; chat and completion",
    evidence="the streams",
    by_hand="curl -N FRONTEND/v1/chat/completions -d '{…, \"stream\": true}'",
)
@kinds
def test_stream_is_framed_as_server_sent_events(
    kind: str, http: httpx.Client, endpoint: InferenceEndpoint, evidence: Evidence
):
    """A stream is server-sent events: one object each, one id throughout, and [DONE] once, at the end."""
    name = "messages" if kind == "chat" else "prompt"
    body = {"model": endpoint.model, name: PROMPTS[kind], "max_tokens": MAX_TOKENS, "stream": True}
    answer = http.post(PATHS[kind], json=body)
    evidence.text(f"{kind} stream", answer.text)
    content_type = answer.headers["content-type"]
    assert content_type.startswith("text/event-stream"), f"expected text/event-stream, got {content_type}"
    assert answer.text.endswith("\n\n"), f"the last event is not ended by an empty line: {tail(answer.text, 40)!r}"
    events = answer.text.removesuffix("\n\n").split("\n\n")
    odd = [event for event in events if not event.startswith("data: ") or "\n" in event]
    assert not odd, f"{len(odd)} events are not one line of data, the first: {odd[0]!r}"
    data = [event.removeprefix("data: ") for event in events]
    done = data.count("[DONE]")
    assert done == 1 and data[-1] == "[DONE]", f"[DONE] came {done} times, not once as the last event: {data[-2:]}"
    chunks = [json.loads(each) for each in data[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1, f"ids differ: {sorted({chunk['id'] for chunk in chunks})}"
    objects = {chunk["object"] for chunk in chunks}
    assert objects == {OBJECTS[kind]}, f"chunks are {sorted(objects)}, expected {OBJECTS[kind]}"


@check(
    "M02-05",
    judged="role first, one finish reason at the end, usage last and only when asked for",
    by_hand="curl -N FRONTEND/v1/chat/completions -d '{…, \"stream\": true}'",
    causes=[60, 62],
)
@pytest.mark.parametrize("kind", [pytest.param("chat", marks=ROLE_IN_EACH), "completion"])
def test_parts_of_a_stream_come_in_order(kind: str, endpoint: InferenceEndpoint):
    """A chat stream sends the role first, then text and one finish reason; usage follows only if requested."""
    with_usage = stream(endpoint, PROMPTS[kind], max_tokens=MAX_TOKENS)
    without = complete(endpoint, PROMPTS[kind], max_tokens=MAX_TOKENS, stream=True)
    assert with_usage.ok and without.ok, f"{with_usage.describe()}; {without.describe()}"
    if kind == "chat":
        roles = [c["delta"].get("role") for chunk in without.chunks for c in chunk["choices"]]
        assert roles[0] == "assistant" and not any(roles[1:]), f"the role is not in the first chunk alone: {roles}"
    ends = [bool(choice.get("finish_reason")) for chunk in without.chunks for choice in chunk["choices"]]
    assert ends.count(True) == 1 and ends[-1], (
        f"of {len(ends)} choices only the last is to have a finish reason: {ends}"
    )
    assert not without.usage, f"usage came although it was not asked for: {without.usage}"
    last = with_usage.chunks[-1]
    assert last.get("usage") and not last["choices"], f"usage, asked for, is not in a last chunk of its own: {last}"


@check(
    "M02-06",
    judged="usage, finish reason and model of the same request both ways; usage adds up",
    by_hand="send the same request with and without stream, and compare usage",
    causes=[61, 62],
)
@kinds
def test_streamed_and_whole_answers_agree(kind: str, endpoint: InferenceEndpoint):
    """The same request streamed and whole has the same usage, finish reason and model."""
    whole = complete(endpoint, PROMPTS[kind], max_tokens=MAX_TOKENS, ignore_eos=True)
    streamed = stream(endpoint, PROMPTS[kind], max_tokens=MAX_TOKENS, ignore_eos=True)
    assert whole.ok and streamed.ok, f"{whole.describe()}; {streamed.describe()}"
    seen = [_told(answer) for answer in (whole, streamed)]
    assert seen[0] == seen[1], f"two answers to one request differ, whole: {seen[0]}, streamed: {seen[1]}"
    tokens = whole.counted("completion_tokens")
    added = whole.counted("prompt_tokens") + tokens
    assert (tokens, added) == (MAX_TOKENS, whole.counted("total_tokens")), (
        f"max_tokens was {MAX_TOKENS}; usage is to have as many completion tokens and to add up, it is {whole.usage}"
    )


def _told(answer: Answer) -> dict:
    counts = {name: answer.counted(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return {**counts, "finish": answer.finish_reasons, "model": {part["model"] for part in answer.parts}}


@check(
    "M02-07",
    judged="share of chunks in the fullest twentieth of the answer's duration; when the first one comes",
    evidence="arrival of each chunk, measurements",
    by_hand="curl -N FRONTEND/v1/completions -d '{…, \"stream\": true}' | ts -s %.s",
    causes=[59],
)
def test_chunks_arrive_spread_in_time(endpoint: InferenceEndpoint, measure: Measure, evidence: Evidence):
    """Chunks arrive while they are generated, not buffered into one burst."""
    answer = stream(endpoint, PROMPTS["completion"], max_tokens=LONG_TOKENS, ignore_eos=True)
    assert answer.ok, answer.describe()
    times = answer.chunk_times_s
    evidence.table("arrival of chunks", ["chunk", "s"], [[n, round(t, 4)] for n, t in enumerate(times, 1)])
    # a burst is what comes within a twentieth of the answer's duration
    window_s = times[-1] / 20
    fullest = max(sum(1 for t in times if begin <= t <= begin + window_s) for begin in times)
    measure("chunks_in_one_burst_percent", 100 * fullest / len(times), n=len(times))
    measure("first_chunk_at_percent_of_duration", 100 * times[0] / answer.duration_s, n=len(times))
    measure.judge()
