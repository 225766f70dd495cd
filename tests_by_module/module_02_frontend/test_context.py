"""Requests that are longer than the model's context."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.require import require
from fixtures.clients.inference import Answer, InferenceEndpoint, complete, stream
from fixtures.load.plan import ordinary_prompt
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import ExpectedErrors, TokenBudget

SERVES_WITHIN_S = 20
# of a prompt that a worker computes: longer ones are only refused, which costs it nothing
MOST_SERVED_TOKENS = 16_384
BOTH = (complete, stream)


@pytest.fixture
def budget(errors: ExpectedErrors) -> TokenBudget:
    """How this version refuses what is beyond a token budget. Raises NotOffered."""
    if errors.token_budget is None:
        raise NotOffered("the mocker of this version takes no --max-model-len, so that no card has a token budget")
    return errors.token_budget


def advertise(deployment: ManagedDeployment, budget: TokenBudget) -> None:
    """Write `budget` into the workers' cards as real engines do, and start the frontend again, which then reads it."""
    with deployment.etcd_client() as etcd:
        for worker in deployment.registered_workers():
            key = require(worker.card_key, f"model card of worker {worker.hex_id}")
            card = key.json()
            card["card_json"]["runtime_config"]["runtime_data"]["token_budget"] = budget.card
            etcd.put(key.name, json.dumps(card), lease_id=key.lease_id)
    deployment.frontend.kill()
    deployment.frontend.launch()
    wait_until_serving(deployment, Deadline(SERVES_WITHIN_S, "the frontend to serve with the new cards"))


@contextmanager
def of_known_budget(run: Run, deployment: Deployment, budget: TokenBudget) -> Iterator[tuple[InferenceEndpoint, int]]:
    """Where a model is served whose card has a token budget, and this: what runs already, or a deployment of its own.

    Raises NotOffered where the cards of a deployment that runs already have none, or refuse nothing.
    """
    if deployment.shared:
        yield deployment.endpoint, budget_of(deployment)
        return
    limit = budget.card["combined_limit"]
    with run.own_deployment("module_02.context", worker_args=("--max-model-len", str(limit))) as own:
        advertise(own, budget)
        yield own.endpoint, limit


def budget_of(deployment: Deployment) -> int:
    """In tokens, the least of its workers'. Raises NotOffered."""
    budgets = []
    for worker in deployment.registered_workers():
        data = ((worker.card or {}).get("runtime_config") or {}).get("runtime_data") or {}
        told = data.get("token_budget") or {}
        if told.get("combined_limit") and told.get("reject_prompt_overflow") and told.get("reject_total_overflow"):
            budgets.append(int(told["combined_limit"]))
    if not budgets:
        raise NotOffered("no model card has a token budget that is kept: vLLM writes one, the mocker does not")
    return min(budgets)


def judge_refused(answers: dict[str, Answer], budget: TokenBudget, about: str) -> None:
    """Raise FoundWrong where requests that are too long, by name, did not get the status and the words of the table."""
    findings = Findings(
        f"{name}: {answer.describe()}"
        for name, answer in answers.items()
        if answer.status != budget.status or budget.says not in json.dumps(answer.body)
    )
    findings.judge(
        f"{about}: expected HTTP {budget.status} with {budget.says!r}, {len(findings)} of {len(answers)} got another"
    )


@check(
    "M02-33",
    judged="prompts, chats and limits to generate that exceed the budget of the model's card by one token and by "
    "far: 400 and the length, streamed and whole; exactly the budget is served (not asked for beyond 16,384 tokens)",
    evidence="requests and answers",
    by_hand="curl -i FRONTEND/v1/completions -d '{…, \"prompt\": [more than the context]}'",
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.4,<1.5",
    shows="one token too many to generate: HTTP 200",
    reason="A request whose prompt and limit to generate exceed the token budget together is served.",
)
def test_requests_beyond_the_token_budget_are_refused(
    run: Run, deployment: Deployment, budget: TokenBudget, evidence: Evidence
):
    """A request of exactly the token budget of the model's card is served; a longer one is refused."""
    with of_known_budget(run, deployment, budget) as (endpoint, limit):
        served = BOTH if limit <= MOST_SERVED_TOKENS else ()
        fits = [send(endpoint, ordinary_prompt(limit - 1), max_tokens=1) for send in served]
        chat = [{"role": "user", "content": "over and over " * limit}]
        too_long = {
            f"{send.__name__}, {what}": send(endpoint, asked, max_tokens=tokens)
            for send in BOTH
            for what, asked, tokens in (
                ("a prompt of the whole budget", ordinary_prompt(limit), 1),
                ("a prompt beyond it", ordinary_prompt(3 * limit), 1),
                ("one token too many to generate", ordinary_prompt(limit - 1), 2),
                ("a long chat", chat, 1),
            )
        }
        good = complete(endpoint, "after all this", max_tokens=1)
    rows = [[name, answer.status, json.dumps(answer.body)] for name, answer in too_long.items()]
    evidence.table("too long", ["request", "status", "answer"], rows)
    for answer in fits:
        assert answer.ok, f"a request of {limit} tokens, the whole budget, is not served: {answer.describe()}"
    judge_refused(too_long, budget, f"requests beyond {limit} tokens")
    assert good.ok, f"a good request after those that were too long fails: {good.describe()}"


@check(
    "M02-34",
    judged="one token more than the context of the model's card: 400 before a stream begins",
    by_hand="curl -i FRONTEND/v1/completions -d '{…, \"prompt\": [more than the context]}'",
)
@pytest.mark.needs("real_engine", role="worker")
def test_over_long_prompts_are_refused(deployment: Deployment, endpoint: InferenceEndpoint, budget: TokenBudget):
    """A prompt one token longer than the model's context is refused by the frontend, before a stream begins."""
    lengths = [worker.card["context_length"] for worker in deployment.registered_workers() if worker.card]
    if not lengths or not all(lengths):
        raise CouldNotLook(f"the model cards have the context lengths {lengths}: there is no one length to exceed")
    too_long = {send.__name__: send(endpoint, ordinary_prompt(max(lengths) + 1), max_tokens=1) for send in BOTH}
    judge_refused(too_long, budget, f"the context has {max(lengths)} tokens, one more was sent")
