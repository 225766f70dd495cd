"""What the frontend offers, and whether OpenAI's own client gets on with it."""

from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionStreamOptionsParam

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.clients.inference import InferenceEndpoint
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import for_version

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Which animal jumps?"}]
MAX_TOKENS = 5


@check(
    "M02-01",
    judged="`/openapi.json` against `endpoints.yaml`; each is asked and answers as the table says",
    evidence="table of endpoints",
    by_hand="curl FRONTEND/openapi.json",
)
@pytest.mark.smoke
def test_every_endpoint_is_accounted_for(run: Run, http: httpx.Client, endpoint: InferenceEndpoint, evidence: Evidence):
    """Every endpoint that the frontend lists is in this version's table and answers as the table says."""
    known = for_version("endpoints.yaml", run.product_version())["endpoints"]
    document = http.get("/openapi.json").raise_for_status().json()
    listed = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    assert listed, "/openapi.json lists no endpoint at all"
    rows, wrong = [], Findings()
    for name in sorted({*listed, *known}):
        entry = known.get(name)
        if entry is None:
            rows.append([name, "not accounted for", "", ""])
            wrong.add(f"{name} is not accounted for in endpoints.yaml")
            continue
        if name not in listed:
            wrong.add(f"{name} is in endpoints.yaml and not in /openapi.json")
        if "not_sent" in entry:
            rows.append([name, "not sent", entry["not_sent"], ""])
            continue
        status = _ask(http, endpoint, name, entry)
        state = "checked" if "checks" in entry else "not applicable"
        rows.append([name, state, " ".join(entry.get("checks", [])) or entry["because"], status])
        if status != entry["status"]:
            wrong.add(f"{name} answers {status} instead of {entry['status']}")
    evidence.table("endpoints", ["endpoint", "state", "checks, or why not", "status"], rows)
    wrong.judge()


def _ask(http: httpx.Client, endpoint: InferenceEndpoint, name: str, entry: dict) -> int:
    method, _, path = name.partition(" ")
    path = entry.get("path", path).replace("MODEL", endpoint.model)
    body = {"model": endpoint.model, **entry["request"]} if "request" in entry else None
    return http.request(method, path, json=body).status_code


@check(
    "M02-02",
    judged="models, chat, completion and response through it, with text and usage",
    by_hand="OpenAI(base_url='FRONTEND/v1', api_key='none').chat.completions.create(…)",
)
@pytest.mark.smoke
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.1",
    shows="Error code: 404",
    reason="The frontend has no endpoint for one model, so that OpenAI's SDK cannot retrieve it.",
)
def test_openai_sdk_is_served(sdk: openai.OpenAI, deployment: Deployment, endpoint: InferenceEndpoint):
    """OpenAI's SDK lists the model and gets a chat, a completion and a response, each with text and usage."""
    listed = [model.id for model in sdk.models.list()]
    assert deployment.is_listed(listed), f"the SDK lists the models {listed}, served is {endpoint.model}"
    retrieved = sdk.models.retrieve(endpoint.model).id
    assert retrieved == endpoint.model, f"the model {endpoint.model} was asked for, the SDK retrieves {retrieved}"
    chat = sdk.chat.completions.create(model=endpoint.model, messages=MESSAGES, max_tokens=MAX_TOKENS)
    plain = sdk.completions.create(model=endpoint.model, prompt="a fox", max_tokens=MAX_TOKENS)
    response = sdk.responses.create(model=endpoint.model, input="a fox", max_output_tokens=MAX_TOKENS)
    texts = {
        "chat": chat.choices[0].message.content,
        "completion": plain.choices[0].text,
        "response": response.output_text,
    }
    silent = [name for name, text in texts.items() if not text]
    assert not silent, f"no text came through the SDK for: {', '.join(silent)}"
    counted = [chat.usage, plain.usage, response.usage]
    assert all(usage and usage.total_tokens > 0 for usage in counted), (
        f"chat, completion and response are to count tokens, usage through the SDK is {counted}"
    )


@check(
    "M02-03",
    judged="chat, completion and response read to their end through it",
    by_hand="OpenAI(…).chat.completions.create(…, stream=True)",
    causes=[60],
)
def test_openai_sdk_streams(sdk: openai.OpenAI, endpoint: InferenceEndpoint):
    """OpenAI's SDK reads streamed chats, completions and responses to their end, with finish reason and usage."""
    model, limit, usage = endpoint.model, MAX_TOKENS, ChatCompletionStreamOptionsParam(include_usage=True)
    chats, texts = sdk.chat.completions, sdk.completions
    chat = list(chats.create(model=model, messages=MESSAGES, max_tokens=limit, stream=True, stream_options=usage))
    plain = list(texts.create(model=model, prompt="a fox", max_tokens=limit, stream=True, stream_options=usage))
    events = list(sdk.responses.create(model=model, input="a fox", max_output_tokens=limit, stream=True))
    streams: dict[str, list[Any]] = {"chat": chat, "completion": plain}
    for name, chunks in streams.items():
        assert any(choice.finish_reason for chunk in chunks for choice in chunk.choices), (
            f"{name}: no finish reason came through the SDK in {len(chunks)} chunks"
        )
        assert chunks[-1].usage, f"{name}: no usage came through the SDK, which was asked for"
    assert any(choice.delta.content for chunk in chat for choice in chunk.choices), "chat: no text came in the stream"
    assert any(choice.text for chunk in plain for choice in chunk.choices), "completion: no text came in the stream"
    ends = [event.type for event in events]
    assert "response.output_text.delta" in ends and ends[-1] in ("response.completed", "response.incomplete"), (
        f"response: expected text and, last, completed or incomplete; the stream's events are {ends}"
    )
