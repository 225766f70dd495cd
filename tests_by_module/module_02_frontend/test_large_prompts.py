"""Prompts that are large themselves: all of them goes over the request plane to a worker."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.printable import head
from fixtures.clients.inference import Answer, complete
from fixtures.clients.tokenizer import ModelTokenizer
from fixtures.cluster.inventory.model import Inventory
from fixtures.load.plan import ordinary_prompt
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import ExpectedErrors, LargePrompt, LargePrompts, Refusal

# repeated, a text of as many tokens as the model's tokenizer makes of them
WORDS = "over and over "
# the mocker takes as long for a token as a GPU does, divided by this
SPEEDUP = 1000
SAMPLE = 100
ANSWERED_WITHIN_S = 60

Form = Literal["token ids", "text", "chat"]


def prompt(form: Form, many: LargePrompt, tokenizer: ModelTokenizer) -> tuple[Any, int]:
    """What is asked, and how many tokens it is at the least: each word is one or more."""
    if form == "token ids":
        return ordinary_prompt(many.token_ids), many.token_ids
    text = WORDS * (many.text_tokens * SAMPLE // len(tokenizer.encode(WORDS * SAMPLE)))
    asked = text if form == "text" else [{"role": "user", "content": text}]
    return asked, len(text.split())


def reasons(deployment: ManagedDeployment, large: LargePrompts) -> list[str]:
    """What frontend and workers wrote about prompts that they refused, with what stood behind it."""
    said = re.compile("|".join(re.escape(refusal.reason) for refusal in large.refusals.values()))
    lines = [line for each in (deployment.frontend, *deployment.workers) for line in each.log().splitlines()]
    return [head(line[found.start() :]) for line in lines if (found := said.search(line))]


def ask_each(deployment: ManagedDeployment, many: LargePrompt) -> Iterator[tuple[Form, float, int, Answer]]:
    """(form, MB of the prompt as JSON, tokens at the least, answer) of the prompt in each form."""
    forms: tuple[Form, ...] = ("token ids", "text", "chat")
    for form in forms:
        asked, tokens = prompt(form, many, deployment.tokenizer())
        answer = complete(deployment.endpoint, asked, max_tokens=1, timeout_s=ANSWERED_WITHIN_S)
        yield form, len(json.dumps(asked)) / 1e6, tokens, answer


ANSWERED_WITH_NOTHING = pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.3,<1.5",
    shows="200 instead of 500",
    reason="A prompt that the mocker's KV cache has no room for is answered with HTTP 200 and no token.",
)


@check(
    "M02-37",
    judged="over each request plane 300,000 token ids, and a text and a chat of 280,000 tokens, are served and "
    "counted; larger ones are refused, and the logs name the limit: NATS's `max_payload`, or over TCP the "
    "worker's KV cache",
    evidence="table with reasons",
    by_hand="curl -i FRONTEND/v1/completions -d '{…, \"prompt\": [300000 token ids]}'; the frontend's log",
)
@pytest.mark.needs("managed", "mocker", why="settings")
@pytest.mark.parametrize("plane", [pytest.param("tcp", marks=ANSWERED_WITH_NOTHING), "nats"])
def test_large_prompts_reach_a_worker_or_are_refused_for_a_known_reason(
    plane: str, run: Run, inventory: Inventory, errors: ExpectedErrors, evidence: Evidence
):
    """A large prompt that the request plane can carry is served whole; a larger one is refused."""
    runtime = next(spec.name for spec in inventory.engines if spec.engine == "mocker")
    large = errors.large_prompts
    refusal, served = large.refusals[plane], Refusal(status=200, reason="")
    args = ("--num-gpu-blocks-override", str(large.kv_blocks), "--speedup-ratio", str(SPEEDUP))
    rows, wrong = [], Findings()
    name = f"module_02.large_{plane}"
    with run.own_deployment(name, runtime=runtime, request_plane=plane, worker_args=args) as deployment:
        for many, expected in ((large.served, served), (large.refused, refusal)):
            for form, megabytes, tokens, answer in ask_each(deployment, many):
                why = "" if answer.ok else (reasons(deployment, large) or ["no reason in any log"])[-1]
                counted = answer.counted("prompt_tokens") if answer.ok else 0
                what = f"{form} of {megabytes:.2f} MB: {answer.status}"
                rows.append([form, f"{megabytes:.2f}", counted, answer.status, why])
                if answer.status != expected.status:
                    wrong.add(f"{what} instead of {expected.status}: {why or answer.describe()}")
                elif expected.reason not in why:
                    wrong.add(f"{what} for another reason than {expected.reason!r}: {why}")
                elif answer.ok and counted < tokens:
                    wrong.add(f"{what}, and {counted} prompt tokens of at least {tokens} were counted")
        good = complete(deployment.endpoint, "after all this", max_tokens=1)
    evidence.table(f"large prompts over {plane}", ["form", "MB", "tokens", "status", "reason"], rows)
    wrong.judge(about=f"over {plane}")
    assert good.ok, f"a good request after the large ones fails: {good.describe()}"
