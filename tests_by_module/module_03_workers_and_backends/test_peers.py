"""Workers of one type against each other: each is asked by name, in a deployment of several."""

from dataclasses import replace

import pytest

from fixtures.answers.compare import first_difference
from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.errors import BringUpFailed, CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.cluster.inventory.dtypes import dtypes_of_workers
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.drift.sample import Taken
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.topology import Picture
from fixtures.run import Run
from tests_by_module.module_03_workers_and_backends.contract import contract
from tests_by_module.module_03_workers_and_backends.peer_answers import distances
from tests_by_module.module_03_workers_and_backends.peer_processes import against_median, most, taken_by_worker
from tests_by_module.module_03_workers_and_backends.peer_speed import (
    BETWEEN_TOKENS,
    FIRST_TOKEN,
    ROUNDS,
    by_worker,
    measured,
    slowest,
)
from tests_by_module.module_03_workers_and_backends.peer_stalls import EVERY_S, Watch, own_stalls_s
from tests_by_module.module_03_workers_and_backends.peers import (
    LEASE_TTL,
    NOT_ASKED,
    Peers,
    by_name,
    differences,
    fields_of,
    kv_blocks,
    peers_of,
    refusal,
)

pytestmark = pytest.mark.needs("peers")

ASKED_CHECK = "M03-30"
AT_ONCE = 3
# so long a watch sees twice what comes every 6 s; it has begun with the first check of this module
WATCHED_S, WATCHED_WITHIN_S = 13, 30


@pytest.fixture(scope="module")
def peers(deployment: Deployment) -> list[Peers]:
    """The types of which there are several workers. Raises CouldNotLook."""
    return peers_of(deployment.registered_workers())


@pytest.fixture(scope="module")
def asked(deployment: Deployment, peers: list[Peers]) -> list[Peers]:
    """The same without those that nobody can ask by name, once each worker of them has answered.

    Raises BringUpFailed with each that has not, and with what its card says otherwise than those of the others;
    NotOffered where answers do not say who gave them.
    """
    askable = [each for each in peers if each.type != NOT_ASKED]
    wrong: list[str] = []
    for type_ in askable:
        said = {each.hex_id: why for each in type_.workers if (why := refusal(deployment, each))}
        cards = {each.hex_id: fields_of(each.card or {}, deployment.settings.dialect) for each in type_.workers}
        for name, why in said.items():
            found = differences({other: told for other, told in cards.items() if other == name or other not in said})
            first, *more = found or ["no worker that answers has another model card"]
            wrong += [f"worker {name} is registered, and asked by name it does not answer ({why}): {first}", *more]
    if wrong:
        raise BringUpFailed(ASKED_CHECK, *wrong, *deployment.complaints()[-1:])
    if not askable:
        raise CouldNotLook("only workers that compute prompts for others are there several times: nobody can ask them")
    return askable


@check(
    "M03-30",
    judged="three requests to each worker by name; of one that is refused, what its model card says otherwise than "
    "those of the workers that answer",
    by_hand="nvext.backend_instance_id; grep 'Rejected incompatible workers' FRONTEND.log",
    causes=[3, 19],
)
def test_every_registered_worker_answers_by_name(asked: list[Peers]):
    """Every registered worker answers when it is asked by name."""


@check(
    "M03-31",
    judged="checksums of the model's files, context length, block size, parsers, router settings and every other field "
    "of the model cards in etcd, and the TTL of the leases: of each value, which workers say so. KV blocks within a "
    "bound",
    evidence="table of fields",
    by_hand="etcdctl get --prefix v1/mdc/; etcdctl lease timetolive LEASE",
    causes=[3, 19],
)
def test_workers_register_the_same_card(
    deployment: Deployment, peers: list[Peers], measure: Measure, evidence: Evidence
):
    """Workers of one type register the same model card and the same lease."""
    dialect = deployment.settings.dialect
    wrong, times, told = Findings(), 1.0, ""
    rows: list[tuple[object, ...]] = []
    with deployment.etcd_client() as etcd:
        for type_ in peers:
            cards = {each.hex_id: require(each.card, f"model card of worker {each.hex_id}") for each in type_.workers}
            fields = {name: fields_of(card, dialect) for name, card in cards.items()}
            for each in type_.workers:
                fields[each.hex_id][LEASE_TTL] = str(etcd.lease(each.instance_key.lease_id).granted_ttl_s)
            wrong.extend(f"{type_.type}: {each}" for each in differences(fields))
            rows += [(type_.type, name, *field) for name, each in fields.items() for field in each.items()]
            blocks = {name: found for name, card in cards.items() if (found := kv_blocks(card, dialect))}
            if blocks and max(blocks.values()) > times * min(blocks.values()):
                times = max(blocks.values()) / min(blocks.values())
                told = ", ".join(f"{count:.0f} of worker {name}" for name, count in blocks.items())
            rows += [(type_.type, name, dialect.model_card_kv_blocks, count) for name, count in blocks.items()]
    evidence.table("fields", ["type", "worker", "field", "value"], rows)
    bound = measure("kv_blocks_times", times)
    if bound.judgement == "fail":
        wrong.add(f"{dialect.model_card_kv_blocks} differs {times:.2f} times, expected {bound.threshold}: {told}")
    wrong.judge()


@check(
    "M03-32",
    judged="prompt and completion tokens and the finish reason of four prompts, of each worker",
    evidence="table of counts",
    by_hand="the same request with each nvext.backend_instance_id: usage",
)
def test_workers_count_alike(deployment: Deployment, asked: list[Peers], evidence: Evidence):
    """Workers of one type count the same tokens for the same prompts, and finish them alike."""
    wrong, rows = Findings(), []
    for type_ in asked:
        for name, prompt in contract().prompts.items():
            said = {}
            for each in type_.workers:
                answer = by_name(deployment, each.instance_id, prompt)
                assert answer.ok, f"worker {each.hex_id} does not answer {name}: {answer.describe()}"
                counts = {what: str(answer.counted(what)) for what in ("prompt_tokens", "completion_tokens")}
                said[each.hex_id] = {**counts, "finish reason": " ".join(answer.finish_reasons)}
            rows += [[type_.type, worker, name, *counts.values()] for worker, counts in said.items()]
            wrong.extend(f"prompt {name!r}: {each}" for each in differences(said))
    evidence.table("counts", ["type", "worker", "prompt", "prompt tokens", "completion tokens", "finish reason"], rows)
    wrong.judge()


@check(
    "M03-33",
    judged="greedy tokens of twelve prompts around a block's boundary against those of the type's first worker: how "
    "far log probabilities differ up to the first token that is another",
    evidence="table of distances",
    by_hand="the same request at temperature 0 with each nvext.backend_instance_id",
    causes=[34],
)
@pytest.mark.needs("real_engine", role="worker")
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.4,<1.5",
    shows=r"16 token ids and 1 log probabilities",
    reason="With SGLang 0.5.16 an answer that is not streamed has the log probability of its first token alone.",
    engine="sglang",
)
def test_workers_answer_alike(
    run: Run, inventory: Inventory, deployment: Deployment, asked: list[Peers], measure: Measure, evidence: Evidence
):
    """Workers of one type give the same greedy tokens for the same prompts."""
    rows = [row for type_ in asked for row in distances(deployment, type_, run.run_id)]
    evidence.table(
        "against the first worker",
        ["prompt", "worker", "first", "first token that differs", "difference", "log probabilities missing"],
        rows,
    )
    farthest = max(far for *_, far, _ in rows)
    if dtypes_of_workers(inventory) == {"float32"}:
        bound = measure("logprob_distance", farthest, n=len(rows))
    else:
        bound = measure("logprob_distance_in_16_bits", farthest, n=len(rows))
    wrong = Findings()
    for name, worker, first, position, far, _ in rows:
        if replace(bound, value=far).judgement == "fail":
            wrong.add(
                f"worker {worker} answers {name!r} otherwise than worker {first}: {first_difference(position)}, log "
                f"probabilities differ by {far:.2g}, expected {bound.threshold}"
            )
    wrong.judge()
    untold = [f"{name}: {told}" for name, *_, told in rows if told]
    assert not untold, (
        f"{len(untold)} answers were compared by their tokens and their first log probabilities: {untold[0]}"
    )


@check(
    "M03-34",
    judged="time to the first token and between tokens, one request after the other and several at once, each worker "
    "asked by name in turn: the ratio to the median of the others, by the lower end of its 99 % interval",
    evidence="table of ratios",
    by_hand="time one request with each nvext.backend_instance_id, in turn",
)
def test_workers_are_equally_fast(
    run: Run, deployment: Deployment, asked: list[Peers], measure: Measure, evidence: Evidence
):
    """Workers of one type are equally fast."""
    # others wait for a deployment that ran already
    rounds, at_once = (ROUNDS, AT_ONCE) if isinstance(deployment, ManagedDeployment) else (ROUNDS // 2, 2)
    alone, together = (
        [measured(deployment.endpoint, type_.ids, run.seed + each, rounds=rounds, at_once=each) for type_ in asked]
        for each in (0, at_once)
    )
    first_alone, between_alone = by_worker(alone, FIRST_TOKEN), by_worker(alone, BETWEEN_TOKENS)
    first_together, between_together = by_worker(together, FIRST_TOKEN), by_worker(together, BETWEEN_TOKENS)
    judged = [
        (
            "to the first token",
            "one at a time",
            first_alone,
            measure("first_token_alone_times", slowest(first_alone), n=rounds),
        ),
        (
            "between tokens",
            "one at a time",
            between_alone,
            measure("between_tokens_alone_times", slowest(between_alone), n=rounds),
        ),
        (
            "to the first token",
            "several at once",
            first_together,
            measure("first_token_at_once_times", slowest(first_together), n=rounds),
        ),
        (
            "between tokens",
            "several at once",
            between_together,
            measure("between_tokens_at_once_times", slowest(between_together), n=rounds),
        ),
    ]
    wrong, rows = Findings(), []
    for what, how, paces, bound in judged:
        rows += [[what, how, f"{worker:x}", *each.interval, *each.medians_ms] for worker, each in paces.items()]
        wrong.extend(
            f"worker {worker:x} takes {each} as the others of its type {what} ({how}), expected {bound.threshold}"
            for worker, each in paces.items()
            if replace(bound, value=each.interval.low).judgement == "fail"
        )
    header = ["what", "requests", "worker", "times the others'", "at least", "at most", "median ms", "the others' ms"]
    evidence.table("paces", header, rows)
    wrong.judge()


@check(
    "M03-35",
    judged="resident memory, descriptors and threads of each worker with all that it started, against the median of "
    "the others of its type",
    evidence="table",
    by_hand="ls /proc/PID/fd | wc -l; grep -E 'VmRSS|Threads' /proc/PID/status",
)
@pytest.mark.needs("worker_port")
def test_workers_take_alike(
    peers: list[Peers], picture: Picture, nodes: dict[str, Node], measure: Measure, evidence: Evidence
):
    """Workers of one type take about the same memory, descriptors and threads."""
    found = taken_by_worker(picture, nodes)
    rows = [[f"{worker:x}", *each.model_dump().values()] for worker, each in found.items()]
    evidence.table("taken", ["worker", *Taken.model_fields], rows)
    if missing := [each.hex_id for type_ in peers for each in type_.workers if each.instance_id not in found]:
        raise CouldNotLook(f"no process of worker {' and '.join(missing)} is seen on a node: nothing to compare")
    memory = against_median(peers, {worker: each.rss_bytes / 1e6 for worker, each in found.items()})
    threads = against_median(peers, {worker: each.threads for worker, each in found.items()})
    descriptors = against_median(peers, {w: each.descriptors for w, each in found.items() if each.descriptors})
    judged = [
        ("MB of resident memory", memory, measure("memory_times", most(memory), n=len(memory))),
        ("threads", threads, measure("threads_times", most(threads), n=len(threads))),
    ]
    if descriptors:
        bound = measure("descriptors_times", most(descriptors), n=len(descriptors))
        judged.append(("descriptors", descriptors, bound))
    Findings(
        f"worker {worker:x} has {own:.0f} {what}, the others of its type have {others:.0f}: "
        f"{own / others:.2f} times as many, expected {bound.threshold}"
        for what, each, bound in judged
        for worker, (own, others) in each.items()
        if replace(bound, value=own / others).judgement == "fail"
    ).judge()
    if not descriptors:
        raise NotOffered("descriptors of another user's processes are not ours to see; memory and threads are alike")


@check(
    "M03-36",
    judged="the second longest time that a worker takes for `/live`, asked several times a second while checks of this "
    "module run, where the others of its type answer promptly meanwhile",
    evidence="table of stalls",
    by_hand="while sleep 0.1; do curl -so /dev/null -w '%{time_total}\\n' WORKER/live; done, for each at once",
)
@pytest.mark.needs("system_port")
def test_no_worker_stalls_now_and_then(peers: list[Peers], watch: Watch, measure: Measure, evidence: Evidence):
    """No worker stalls again and again while the others of its type go on."""
    asked = [each for type_ in peers for each in type_.ids]

    def look() -> tuple[float | None, object]:
        seen_s = watch.watched_s(asked)
        return (seen_s if seen_s >= WATCHED_S else None), f"{seen_s:.1f} s"

    watched_s = wait_until(look, Deadline(WATCHED_WITHIN_S, "answers of all workers' system ports"), every_s=EVERY_S)
    stalls_s = {
        worker: own_stalls_s({each: watch.replies[each] for each in type_.ids}, worker)
        for type_ in peers
        for worker in type_.ids
    }
    again_s = {worker: each[1] if len(each) > 1 else 0.0 for worker, each in stalls_s.items()}
    evidence.table(
        "stalls",
        ["worker", "watched s", "answers", "stalls of its own, s"],
        [
            [f"{each:x}", watched_s, len(watch.replies[each]), " ".join(f"{s:.2f}" for s in stalls_s[each])]
            for each in asked
        ],
    )
    bound = measure("second_longest_stall_s", max(again_s.values()), n=min(len(watch.replies[each]) for each in asked))
    Findings(
        f"worker {worker:x} stalls again and again while the others of its type answer: {len(stalls_s[worker])} times "
        f"in {watched_s:.0f} s, at the longest {stalls_s[worker][0]:.2f} s and {again_s[worker]:.2f} s, expected "
        f"{bound.threshold}"
        for worker in asked
        if replace(bound, value=again_s[worker]).judgement == "fail"
    ).judge()
