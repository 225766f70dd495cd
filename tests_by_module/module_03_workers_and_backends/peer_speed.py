"""How fast workers of one type are: asked in turn, so that a busy machine slows all of them alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from fixtures.baseline.intervals import Interval, mean_interval
from fixtures.clients.inference import InferenceEndpoint
from fixtures.load.from_here import COMPLETED, RequestRecord, run_load
from fixtures.load.plan import PlannedRequest, requests

ROUNDS = 10
PROMPT_TOKENS, OUTPUT_TOKENS = 256, 17
ANSWERS_WITHIN_S = 60
CONFIDENCE = 0.99
LEAST_S = 1e-6  # a ratio needs a figure above 0: all tokens may come in one piece


class Pace(NamedTuple):
    """Seconds: from the request to the first token, and from one token to the next."""

    first_token_s: float
    between_tokens_s: float


FIRST_TOKEN, BETWEEN_TOKENS = attrgetter("first_token_s"), attrgetter("between_tokens_s")
# the pace of each worker, by its id: the median over the requests of a round
Round = dict[int, Pace]


def measured(
    endpoint: InferenceEndpoint, ids: Sequence[int], seed: int, *, rounds: int, at_once: int = 0
) -> list[Round]:
    """So many rounds in which each worker is asked by name, each round beginning with another one.

    One request after the other, or `at_once` to each worker together. Each has a prompt of its own. Raises
    AssertionError for a request that is not answered.
    """
    fresh = requests(seed, (PROMPT_TOKENS, PROMPT_TOKENS), (OUTPUT_TOKENS, OUTPUT_TOKENS))
    seen: list[Round] = []
    for number in range(rounds + 1):
        turn = [ids[(number + place) % len(ids)] for place in range(len(ids))] * (at_once or 1)
        asked = [
            PlannedRequest(each.number, each.prompt, each.max_tokens, pinned_to=worker)
            for worker, each in zip(turn, islice(fresh, len(turn)), strict=True)
        ]
        records = run_load(endpoint, asked, concurrency=len(turn) if at_once else 1, within_s=ANSWERS_WITHIN_S)
        seen.append({worker: _pace([each for each in records if each.planned.pinned_to == worker]) for worker in ids})
    return seen[1:]  # the first requests open connections


def _pace(records: Sequence[RequestRecord]) -> Pace:
    paces = []
    for record in records:
        worker = f"worker {record.planned.pinned_to:x}"
        assert record.outcome == COMPLETED, f"{worker}, asked by name: {record.describe()}"
        others = record.answer.worker_ids - {record.planned.pinned_to}
        assert not others, f"{worker}, asked by name: worker {' and '.join(f'{each:x}' for each in others)} answers"
        chunks = zip(record.answer.chunk_times_s, record.answer.chunks, strict=True)
        times = [at_s for at_s, chunk in chunks if chunk.get("choices")]
        assert times, f"{worker}, asked by name, streams no token: {record.describe()}"
        paces.append((times[0], (times[-1] - times[0]) / (record.planned.max_tokens - 1)))
    return Pace(*(max(LEAST_S, median(each)) for each in zip(*paces, strict=True)))


@dataclass(frozen=True)
class Against:
    """A worker against the median of the others of its type: how many times as long it takes, and both medians."""

    interval: Interval
    medians_ms: tuple[float, float]

    def __str__(self) -> str:
        ratio, low, high = self.interval
        own, others = self.medians_ms
        return f"{ratio:.2f} times as long ({low:.2f} to {high:.2f}; {own:.3g} ms against {others:.3g} ms)"


def by_worker(rounds_of_types: Sequence[Sequence[Round]], figure: Callable[[Pace], float]) -> dict[int, Against]:
    """Of all types together, each worker against the others of its own."""
    return {worker: against_others(rounds, worker, figure) for rounds in rounds_of_types for worker in rounds[0]}


def slowest(found: Mapping[int, Against]) -> float:
    """The lower end of the interval of the worker that is surely the slowest."""
    return max(each.interval.low for each in found.values())


def against_others(rounds: Sequence[Round], worker: int, figure: Callable[[Pace], float]) -> Against:
    """Each round is compared in itself, so that what slows all alike leaves no trace."""
    own = [figure(each[worker]) for each in rounds]
    others = [median(figure(pace) for other, pace in each.items() if other != worker) for each in rounds]
    ratios = [one / other for one, other in zip(own, others, strict=True)]
    return Against(Interval(*mean_interval(ratios, CONFIDENCE)), (1000 * median(own), 1000 * median(others)))
