"""A model with weights that were trained: it answers as well as it is said to, at the speed that is measured."""

import time
from pathlib import Path

import pytest

from fixtures.answers import questions
from fixtures.answers.questions import Question
from fixtures.basics.check import check
from fixtures.basics.deadline import Threads
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.printable import head
from fixtures.clients.answer import Answer
from fixtures.clients.inference import complete
from fixtures.cluster.inventory.served_model import ModelSpec
from fixtures.fit.models import SERVED
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_13_large_models.sizing import named

AT_ONCE = 8
# half a token a second: nobody waits longer for an answer of ANSWER_TOKENS
ANSWERED_WITHIN_S = 600
SHOWN = 20


@pytest.fixture(scope="module")
def model(run: Run) -> ModelSpec:
    return run.inventory.model(named(run, SERVED))


@pytest.fixture(scope="module")
def asked(model: ModelSpec) -> list[tuple[str, Question]]:
    """Prompts with their questions. Raises CouldNotLook for a file that has none, before anything is started."""
    return questions.prompts(questions.read(Path(model.questions_file or "")))


@check(
    "M13-16",
    judged="a hundred questions of the model's `questions_file`, with five worked examples as GSM8K is asked, greedy, "
    "eight at once: the numbers that are right, against what a model that is right in `right_percent` of them has in "
    "99 of 100 tries; tokens a second meanwhile",
    evidence="answers that are wrong",
    by_hand="lm_eval --model local-completions --tasks gsm8k --num_fewshot 5 --limit 100 "
    "--model_args base_url=FRONTEND/v1/completions,model=NAME",
)
@pytest.mark.needs("real_engine", "questions", role="worker")
def test_model_answers_as_often_right_as_it_is_said_to(
    asked: list[tuple[str, Question]], model: ModelSpec, deployment: Deployment, measure: Measure, evidence: Evidence
):
    """Of questions whose answers are known, the model answers as many right as it is said to."""

    def ask(prompt: str) -> Answer:
        wanted = {"max_tokens": questions.ANSWER_TOKENS, "temperature": 0, "stop": questions.STOP}
        return complete(deployment.endpoint, prompt, timeout_s=ANSWERED_WITHIN_S, **wanted)

    began = time.monotonic()
    with Threads(AT_ONCE) as pool:
        answers = list(pool.map(ask, [prompt for prompt, _ in asked]))
    took_s = time.monotonic() - began
    failed = [each.describe() for each in answers if not each.ok]
    assert not failed, f"{len(failed)} of {len(asked)} questions were not answered: {failed[0]}"
    pairs = [(question, answer) for (_, question), answer in zip(asked, answers, strict=True)]
    wrong = [(question, each) for question, each in pairs if questions.answered(each.text) != question.number]
    evidence.table(
        "answers that are wrong",
        ["question", "right is", "answered", "ended by"],
        [[q.text, q.number, head(each.text), ", ".join(each.finish_reasons)] for q, each in wrong[:SHOWN]],
    )
    share, right = (model.right_percent or 0) / 100, len(asked) - len(wrong)
    measure("right_percent", 100 * right / len(asked), n=len(asked))
    measure("tokens_per_s", sum(each.counted("completion_tokens") for each in answers) / took_s, n=len(asked))
    measure("cut_short", sum("length" in each.finish_reasons for each in answers), n=len(asked))
    evidence.text(
        "what would be found",
        f"in nine of ten tries a model that is right in {questions.found_at(len(asked), share):.0%} or less of them",
    )
    least = questions.least_right(len(asked), share)
    of_wrong = [f"{head(q.text)}: {q.number} is right, and it answered {head(each.text)!r}" for q, each in wrong]
    assert right >= least, (
        f"{right} of {len(asked)} answers are right: the model is said to have {model.right_percent:g} %, and then "
        f"there are {least} or more in 99 of 100 tries. The first wrong one: {of_wrong[0]}"
    )
    measure.judge()
