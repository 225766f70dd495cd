"""Requests that nobody thought of: hypothesis makes them, a frontend of their own gets them."""

import json
from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.printable import head
from fixtures.clients.inference import complete
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import CHAT, JSON, plain_client

CASES = 200
# fewer would only show that wrong JSON is refused
SERVED_AT_LEAST = 10
ANSWERED_WITHIN_S = 10
# what a route does not undo: never asked, even on a frontend of its own
STATE_CHANGING = ("/busy_threshold",)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
text = st.text(max_size=20)
role = st.sampled_from(["system", "user", "assistant", "tool", "developer", "nobody"])
message = st.fixed_dictionaries({"role": role, "content": text | anything})
# few, or more than any version allows: what lies between is generated, and takes as long as it takes
count = st.integers(-2, 20) | st.sampled_from([2**20 + 1, 2**31, 2**32, 2**64]) | text
# by field what comes near to being right
FIELDS = {
    "messages": st.lists(message, max_size=4),
    "prompt": text | st.lists(text, max_size=3) | st.lists(st.integers(-1, 12_000), max_size=20),
    "input": text | st.lists(message, max_size=3),
    "max_tokens": count,
    "max_completion_tokens": count,
    "max_output_tokens": count,
    "min_tokens": count,
    "temperature": st.floats(-1, 3),
    "top_p": st.floats(-1, 2),
    "top_k": st.integers(-3, 100),
    "n": st.integers(-1, 4),
    "best_of": st.integers(-1, 4),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "stop": text | st.lists(text, max_size=5),
    "seed": st.integers(),
    "logprobs": st.booleans() | st.integers(-1, 6),
    "top_logprobs": st.integers(-1, 25),
    "echo": st.booleans(),
    "logit_bias": st.dictionaries(text, st.integers(-200, 200), max_size=3),
    "ignore_eos": st.booleans(),
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "json_schema", "x"])}),
    "tools": st.lists(anything, max_size=2),
    "tool_choice": st.sampled_from(["none", "auto", "required"]) | anything,
    "nvext": anything,
    "user": text,
    "metadata": st.dictionaries(text, text, max_size=3),
}
counts = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
one_field = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: FIELDS[name].map(lambda value: (name, value)))
near = st.lists(one_field, max_size=3).map(dict)
odd = st.dictionaries(st.sampled_from(sorted(FIELDS.keys() - set(counts))) | st.text(max_size=8), anything, max_size=2)
SERVED = [CHAT, "/v1/completions", "/v1/responses"]
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": "a"},
}
made_up = (
    st.tuples(st.just("fields"), near | near | odd)
    | st.tuples(st.just("json"), anything)
    | st.tuples(st.just("bytes"), st.binary(max_size=200))
)


def body_of(kind: str, value: Any, path: str, model: str) -> bytes:
    """A good request with some fields made up; any JSON; any bytes."""
    if kind == "bytes":
        return value
    if kind == "fields":
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        value = {"model": model, limit: 2, **PROMPTS.get(path, {"input": "a"}), **value}
    return json.dumps(value).encode()


@check(
    "M02-22",
    judged="200 requests by hypothesis to every route on a frontend of its own: no 5xx (but 501 that names what is "
    "not supported), no hang, no process ends",
    evidence="requests by route and status",
    by_hand="send what hypothesis reports",
    causes=[65],
)
@pytest.mark.needs("managed", why="breaks")
def test_made_up_requests_break_nothing(run: Run, evidence: Evidence):
    """No generated request makes any route return a server error (except 501), hang, or end a process."""
    with run.own_deployment("module_02.fuzz") as deployment:
        before = [service.require_process().pgid for service in deployment.services]
        with plain_client(deployment.endpoint.url, ANSWERED_WITHIN_S) as http:
            paths = http.get("/openapi.json").raise_for_status().json()["paths"]
            routes = sorted(path for path, ways in paths.items() if "post" in ways and path not in STATE_CHANGING)
            assert CHAT in routes, f"{CHAT} is not among the routes of /openapi.json: {routes}"
            seen: Counter[tuple[str, int]] = Counter()

            @seed(run.seed)
            @settings(
                max_examples=CASES,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            # most of the cases for what is served here
            @given(path=st.sampled_from(SERVED * 4 + routes), case=made_up)
            def ask(path: str, case: tuple[str, Any]) -> None:
                content = body_of(*case, path, deployment.settings.model_name)
                try:
                    answer = http.post(path, content=content, headers=JSON)
                except httpx.TransportError as error:
                    raise AssertionError(f"POST {path} {head(repr(content))}: no answer: {error!r}") from None
                seen[path, answer.status_code] += 1
                # 501 is how 1.6.1 refuses fields that it knows and does not serve, in words and for what they are
                refused = answer.status_code == 501 and "not supported" in answer.text
                assert answer.status_code < 500 or refused, (
                    f"POST {path} {head(repr(content))}: {answer.status_code} {head(answer.text)}"
                )

            try:
                ask()
            except FlakyFailure as error:
                raise AssertionError(f"once, and not when it was sent again: {error.exceptions[0]}") from None
            finally:
                rows = [[path, status, count] for (path, status), count in sorted(seen.items())]
                evidence.table("made-up requests", ["route", "status", "requests"], rows)
        statuses = Counter(status for _, status in seen.elements())
        assert statuses[200] >= SERVED_AT_LEAST, (
            f"expected status 200 for {SERVED_AT_LEAST} or more made-up requests, got {dict(statuses)}"
        )
        ended = [service.name for service in deployment.services if not service.is_alive()]
        assert not ended, f"these ended while made-up requests were sent: {ended}"
        now = [service.require_process().pgid for service in deployment.services]
        assert before == now, f"processes were started again: their groups were {before}, and are {now}"
        after = complete(deployment.endpoint, "after all this", max_tokens=2)
        assert after.ok, f"a good request after {sum(seen.values())} made-up ones fails: {after.describe()}"
