"""The same contract whatever the engine: answers, streams, errors, cancellation, counts, KV events."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.clients.answer import Answer
from fixtures.load.from_here import LEFT
from fixtures.product.deployments.deployment import NOT_QUIET
from tests_by_module.module_03_workers_and_backends.contract import contract
from tests_by_module.module_03_workers_and_backends.engine_run import KV_BLOCKS, LEAVES_AFTER, NOTICED_WITHIN_S, Column


def broken(answer: Answer) -> str | None:
    """What is not as asked in an answer of max_tokens tokens; None: nothing."""
    asked = contract().max_tokens
    if not answer.ok:
        return answer.describe()
    usage = answer.usage
    if not usage:
        return f"it has no usage: {answer.describe()}"
    if usage["completion_tokens"] != asked:
        return f"max_tokens was {asked}, usage reports {usage['completion_tokens']} completion tokens"
    if usage["prompt_tokens"] + asked != usage["total_tokens"]:
        return f"usage does not add up: {usage}"
    if answer.finish_reasons != ["length"]:
        return f"finish reasons {answer.finish_reasons}, expected one: length"
    return None


@check(
    "M03-02",
    judged="eight tokens with `ignore_eos`: usage, its sum, finish reason",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "max_tokens": 8, "ignore_eos": true}\'',
    causes=[62, 64],
)
def test_answers_are_as_asked(columns: list[Column]):
    """Every engine generates and counts the requested number of tokens and finishes by length."""
    for column in columns:
        wrong = [f"{name}: {told}" for name, answer in column.whole.items() if (told := broken(answer))]
        assert not wrong, f"{column.name}, {len(wrong)} of {len(column.whole)} answers are not as asked: {wrong[0]}"


@check(
    "M03-03",
    judged="eight tokens with `ignore_eos`, streamed: usage, its sum, finish reason, more than one chunk with text",
    by_hand="curl -N FRONTEND/v1/completions -d '{…, \"stream\": true}'",
    causes=[59, 60, 62],
)
def test_streams_are_as_asked(columns: list[Column]):
    """Every engine streams token by token, with the same counts and finish reason as without streaming."""
    for column in columns:
        for name, answer in column.streamed.items():
            told = broken(answer)
            assert told is None, f"{column.name}, the stream of {name} is not as asked: {told}"
            pieces = sum(bool(chunk.get("choices")) for chunk in answer.chunks)
            with_text = len({at for at, chunk in enumerate(answer.chunks) if _has_text(chunk)})
            assert with_text > 1, (
                f"{column.name}, {contract().max_tokens} tokens of {name}: {with_text} of {pieces} chunks have text, "
                "expected more than one"
            )


def _has_text(chunk: dict) -> bool:
    return any(each.get("text") or (each.get("delta") or {}).get("content") for each in chunk.get("choices", []))


def refused_as_declared(columns: list[Column], evidence: Evidence, *, by_engine: bool) -> None:
    """AssertionError with every request that was not, or for an engine that does not serve afterwards."""
    for column in columns:
        if by_engine and column.ended_by_refusals:
            raise column.ended_by_refusals
    wrong = {name: each for name, each in contract().wrong_requests.items() if each.by_engine == by_engine}
    seen = [(column, name, column.refusals[name]) for column in columns for name in wrong]
    assert any(name not in column.facts.takes for column, name, _ in seen), "contract.yaml asks nothing wrong of them"
    rows = [(column.name, name, answer.status, answer.describe()) for column, name, answer in seen]
    evidence.table("wrong requests", ["engine", "request", "status", "answer"], rows)
    found = [
        f"{column.name}, {name}: status {answer.status}, expected {wrong[name].status}: {answer.describe()}"
        for column, name, answer in seen
        if name not in column.facts.takes and answer.status != wrong[name].status
    ]
    Findings(found).judge()
    for column in columns:
        after = column.after_refusals[by_engine]
        assert after.ok, f"{column.name}, a good request afterwards fails: {after.describe()}"


@check(
    "M03-04",
    judged="statuses against contract.yaml; a good request straight afterwards",
    evidence="requests and answers",
    by_hand="curl -i FRONTEND/v1/completions -d '{…, \"max_tokens\": 0}'",
)
def test_wrong_requests_are_refused_by_every_engine(columns: list[Column], evidence: Evidence):
    """Every engine refuses the same invalid requests alike, and then serves a valid request."""
    refused_as_declared(columns, evidence, by_engine=False)


@check(
    "M03-10",
    judged="a token that the model does not have: 400; a valid request straight afterwards",
    evidence="requests and answers",
    by_hand="curl -i FRONTEND/v1/completions -d '{…, \"prompt\": [99999999]}'",
    causes=[65],
)
@pytest.mark.known_defect(
    issue="dynamo PR#3860",
    versions=">=1.4,<1.5",
    shows="an unknown token: status 500",
    reason="What vLLM 0.26 refuses is answered with 500 instead of 400, so clients retry it in vain.",
    engine="vllm",
)
@pytest.mark.known_defect(
    issue="sglang, not reported",
    versions=">=1.4,<1.5",
    shows="not sent: sglang",
    reason="A token id that the model does not have ends the process of SGLang 0.5.16 on a GPU, and with it every "
    "request that it serves. It is not sent.",
    engine="sglang",
)
def test_unknown_token_is_refused_with_400(columns: list[Column], evidence: Evidence):
    """An unknown token id is refused with 400, and a valid request is served straight afterwards."""
    refused_as_declared(columns, evidence, by_engine=True)


@check(
    "M03-05",
    judged="after three chunks of 2000 tokens: seconds until the worker, and the engine's own count where it has "
    "one, has no request left",
    evidence="measurement",
    by_hand="curl -N FRONTEND/v1/completions -d '{…}', Ctrl-C; curl WORKER/metrics",
    causes=[63],
)
@pytest.mark.needs("system_port")
def test_engine_stops_when_its_client_disconnects(columns: list[Column], measure: Measure):
    """An engine stops generating soon after its client disconnects."""
    noticed_s = []
    for column in columns:
        if column.shared and column.busy_before:
            raise NotOffered(NOT_QUIET)
        left = column.left
        assert left.outcome == LEFT and len(left.answer.chunks) >= LEAVES_AFTER, (
            f"{column.name}: the client was to leave after {LEAVES_AFTER} chunks: {left.describe()}"
        )
        assert column.idle_after_s is not None, (
            f"{column.name}: {NOTICED_WITHIN_S} s after its client left, the worker still has the request in hand"
        )
        noticed_s.append(column.idle_after_s)
    measure("noticed_s", max(noticed_s), n=len(columns))
    measure.judge()


@check(
    "M03-06",
    judged="requests, and an engine's own counts of prompt and generated tokens, move by exactly what was sent",
    evidence="counted and sent",
    by_hand="curl WORKER/metrics before and after",
)
@pytest.mark.needs("system_port")
def test_workers_count_what_they_served(columns: list[Column], evidence: Evidence):
    """A worker's counters move by exactly the requests and tokens it was sent, by no less where others send, too."""
    for column in columns:
        sent = 2 * len(column.whole)  # whole and streamed
        expected = {"requests": sent}
        if column.facts.metrics:
            column.require_tokenizer()
            tokens = 2 * sum(column.prompt_tokens.values())
            expected |= {"prompt_tokens": tokens, "generated_tokens": sent * contract().max_tokens}
        rows = [(what, number, column.counted.get(what)) for what, number in expected.items()]
        evidence.table(f"counted by {column.name}", ["what", "sent", "counted"], rows)
        wrong = [
            f"{what}: {number} were sent, {counted} counted"
            for what, number, counted in rows
            if number != counted and not (column.shared and counted and counted > number)
        ]
        Findings(wrong).judge(about=f"{column.name} counts something else than it was sent")


@check(
    "M03-07",
    judged="of a new prompt of three blocks: three blocks, each once, a chain from the beginning",
    by_hand="nats sub '*.*.*.*.*.*.kv-events'; send a new prompt of whole blocks",
    causes=[1, 7],
)
@pytest.mark.needs("nats_events")
def test_kv_events_tell_what_was_stored(columns: list[Column]):
    """For a new prompt, every engine publishes each full block once, as one chain from the beginning."""
    for column in columns:
        stored = [event for event in column.events or [] if event.kind == "stored"]
        assert stored, f"{column.name}: no KV event for a prompt of {KV_BLOCKS} new blocks"
        blocks = [block for event in stored for block in event.blocks]
        if column.shared and len(set(blocks)) > KV_BLOCKS:
            raise NotOffered(NOT_QUIET)
        assert len(blocks) == len(set(blocks)) == KV_BLOCKS, (
            f"{column.name}: a prompt of {KV_BLOCKS} blocks of {column.block_size} tokens was sent, KV events report "
            f"{len(blocks)} blocks, {len(set(blocks))} of them different"
        )
        parents = [event.parent for event in stored]
        ends = [None, *(event.blocks[-1] for event in stored)]
        assert parents == ends[:-1], f"{column.name}: the blocks are not a chain: parents {parents}, ends {ends[1:]}"


@check(
    "M03-09",
    judged="prompt tokens of each prompt and engine against the model's tokenizer",
    evidence="prompt tokens",
    by_hand="compare usage.prompt_tokens of the engines",
    causes=[62],
)
def test_engines_count_prompts_alike(columns: list[Column], evidence: Evidence):
    """Every engine counts the same number of prompt tokens as the model's tokenizer."""
    for column in columns:
        column.require_tokenizer()
    told = {(c.name, name): (a.usage or {}).get("prompt_tokens") for c in columns for name, a in c.whole.items()}
    rows = [(name, *(told[c.name, name] for c in columns)) for name in contract().prompts]
    evidence.table("prompt tokens", ["prompt", *(column.name for column in columns)], rows)
    for column in columns:
        wrong = [
            f"{name}: usage reports {told[column.name, name]} prompt tokens, the tokenizer counts {count}"
            for name, count in column.prompt_tokens.items()
            if told[column.name, name] != count
        ]
        Findings(wrong).judge(about=f"{column.name} counts prompts otherwise")
