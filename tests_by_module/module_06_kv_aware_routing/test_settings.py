"""Router settings and modes have the effect that is documented, each on a frontend of its own with the same workers.

Of a deployment that runs already, its one mode, and that its router avoids load.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.dynamo_versions import dialect
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.served import require_all_served
from fixtures.cluster.probes.offered import is_declared
from fixtures.load.traces import Traces
from fixtures.product.deployments.deployment import NOT_QUIET, Deployment, proxied
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_06_kv_aware_routing.extra_frontends import kept_busy, more_frontends
from tests_by_module.module_06_kv_aware_routing.routing import (
    Routed,
    block_size_of,
    not_offered,
    router_settings,
    send,
    workers_of,
)

own_frontends = pytest.mark.needs("managed", "kv_router", why="settings")

BLOCKS = 5
# all of that many on one of two workers by chance: less often than once in a million times
REQUESTS = 24
STREAMS, STREAM_BLOCKS = 3, 10
OVERLOADED = ("HTTP 529", "HTTP 503")
BUSY_WITHIN_S = 5
ASKED, ASKED_EVERY_S = 10, 0.5


def in_turn(chosen: Sequence[int], _: int) -> bool:
    workers = len(set(chosen))
    return workers > 1 and all(chosen[n] == chosen[n % workers] for n in range(len(chosen)))


def by_chance(chosen: Sequence[int], _: int) -> bool:
    return len(set(chosen)) > 1 and not in_turn(chosen, _)


def without_load(chosen: Sequence[int], loaded: int) -> bool:
    return loaded not in chosen


# what each mode does while one of two workers is loaded
MODES: dict[str, tuple[str, Callable[[Sequence[int], int], bool]]] = {
    "round-robin": ("workers take turns", in_turn),
    "random": ("workers are taken by chance", by_chance),
    "least-loaded": ("the loaded worker is left out", without_load),
    "power-of-two": ("the loaded worker is left out", without_load),
}
ONLY_ITS_OWN = "it starts frontends in other modes: of a deployment that runs already its own is judged"


@dataclass(frozen=True)
class Tuned:
    """Frontends for the same two workers, by the setting or mode of each: its arguments, and where it is reached."""

    version: str
    arguments: dict[str, list[str]]
    urls: dict[str, str]

    def __getitem__(self, setting: str) -> str:
        """Where it is reached. Raises NotOffered."""
        if setting not in self.urls:
            raise NotOffered(f"ai-dynamo {self.version} does not offer {setting} (router_settings.yaml)")
        return self.urls[setting]

    def no_effect_of(self, setting: str) -> str:
        return f"no effect of {' '.join(self.arguments[setting])} is seen"


@dataclass(frozen=True)
class InMode:
    """Where a frontend in that mode is reached, and prompts that nobody knows."""

    deployment: Deployment
    url: str
    traces: Traces


@pytest.fixture
def in_mode(mode: str, request: pytest.FixtureRequest, deployment: Deployment, run: Run) -> InMode:
    """A frontend beside those of `own`, or the one that runs already.

    Raises NotOffered where that has another mode, or its version lacks this one or names no worker in it.
    """
    if not deployment.shared:
        dialect(run.product_version()).require_workers_named_in(mode)
        own, tuned, traces = map(request.getfixturevalue, ("own", "tuned", "traces"))
        return InMode(own, tuned[mode], traces)
    cluster = run.inventory.cluster
    if not is_declared(cluster, "dynamo_router_mode"):
        raise NotOffered(f"{ONLY_ITS_OWN}, and dynamo_router_mode does not declare it")
    if mode != cluster.dynamo_router_mode:
        raise NotOffered(f"{ONLY_ITS_OWN}, and dynamo_router_mode is {cluster.dynamo_router_mode}")
    workers = deployment.registered_workers()
    if len(workers) < 2:
        raise NotOffered("one worker leaves no choice: it needs two (dynamo_workers)")
    return InMode(deployment, the_frontend(deployment), Traces(block_size_of(workers), run.seed, run.run_id))


@pytest.fixture(scope="module")
def tuned(run: Run, own: ManagedDeployment, traces: Traces) -> Iterator[Tuned]:
    version = run.product_version()
    arguments = router_settings(version)
    with more_frontends(run, own, traces, arguments) as urls:
        yield Tuned(version, arguments, urls)


def the_frontend(deployment: Deployment) -> str:
    """Raises NotOffered where another may be asked in its place."""
    if proxied(deployment):
        raise NotOffered("dynamo_frontend_direct_url is another address: what stands before it may ask other frontends")
    return deployment.endpoint.url


def requests_of(deployment: Deployment) -> float:
    """All that the frontend has counted so far."""
    name = deployment.settings.dialect.metrics.frontend_requests
    return deployment.frontend_metrics(name).total_or_zero(name)


def require_alone(deployment: Deployment, before: float, sent: int) -> None:
    """Raises NotOffered where the frontend has counted more than was sent, and others have sent them."""
    if deployment.shared and requests_of(deployment) - before > sent:
        raise NotOffered(NOT_QUIET)


def ask_often(deployment: Deployment, traces: Traces, url: str, *, blocks: int = 0) -> list[Routed]:
    """Prompts that nobody knows, one after the other."""
    size = traces.block_size
    done = [send(deployment, traces.tokens(blocks * size + 8), size, url=url) for _ in range(REQUESTS)]
    require_all_served(done)
    return done


def counted(done: Sequence[Routed]) -> dict[str, int]:
    return dict(Counter(f"{worker:x}" for worker in workers_of(done)))


@own_frontends
@check(
    "M06-18",
    judged="overlap credit 0, temperature 5: one prompt does not stay on one worker",
    evidence="requests by worker",
    by_hand="start a frontend with the setting; send one prompt many times",
    causes=[15],
)
@pytest.mark.parametrize("setting", ["overlap-credit-0", "temperature-5"])
def test_hits_count_for_less(setting: str, own: ManagedDeployment, tuned: Tuned, traces: Traces, evidence: Evidence):
    """Without credit for overlap, or at a high temperature, a prompt does not stay on the worker that has it."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    done = [send(own, prompt, size, url=tuned[setting]) for _ in range(REQUESTS)]
    counts = counted(done)
    evidence.table("requests by worker", ["worker", "requests"], counts.items())
    require_all_served(done)
    assert len(counts) == 2, f"{tuned.no_effect_of(setting)}: one prompt is to go to both workers, it went to {counts}"


@check(
    "M06-24",
    judged="one of two workers is kept busy: round-robin takes turns, random both by chance, least-loaded and "
    "power-of-two the other; none predicts hits. Of a deployment that runs already its own mode, where that is not kv",
    evidence="workers in order",
    by_hand="start a frontend with --router-mode; load one worker; send others",
    causes=[15],
)
@pytest.mark.parametrize("mode", MODES)
def test_router_modes_choose_as_they_say(mode: str, run: Run, in_mode: InMode, evidence: Evidence):
    """With one of two workers loaded, each router mode chooses as documented, and never by prefix hits."""
    deployment, url, traces = in_mode.deployment, in_mode.url, in_mode.traces
    told, holds = MODES[mode]
    loaded, counted_before = deployment.registered_workers()[0], requests_of(deployment)
    if holds is without_load and not loaded.system_url:
        variable = deployment.settings.dialect.environment.system_port
        raise NotOffered(f"with {variable} workers count what they have in hand, which mode {mode} goes by")
    unheeded = mode in not_offered(run.product_version())["named_worker"]
    if unheeded and holds is without_load:
        raise NotOffered(f"in mode {mode} this version sends to any worker what names one, so that none can be loaded")
    # whose load is not looked at needs none
    idle = (deployment.shared or unheeded) and holds is not without_load
    streams = 0 if idle else STREAMS
    busy = kept_busy(deployment, traces, url, streams, STREAM_BLOCKS, [loaded.instance_id])
    with nullcontext() if idle else busy:
        done = ask_often(deployment, traces, url)
    chosen = workers_of(done)
    evidence.table("in order", ["request", "worker"], [[n, f"{worker:x}"] for n, worker in enumerate(chosen, 1)])
    assert all(each.predicted is None for each in done), (
        f"no effect of --router-mode {mode} is seen: the router predicts hits, as in mode kv"
    )
    if holds(chosen, loaded.instance_id):
        return
    require_alone(deployment, counted_before, REQUESTS + streams)
    raise AssertionError(
        f"no effect of --router-mode {mode} is seen: expected that {told}; {loaded.hex_id} is "
        f"{'not ' if idle else ''}loaded, got {counted(done)}"
    )


@pytest.mark.needs("kv_router", "system_port")
@check(
    "M06-25",
    judged="a router leaves out the worker that it keeps busy; one with `--no-router-track-active-blocks "
    "--no-router-track-prefill-tokens` does not (not looked at where the deployment runs already)",
    evidence="requests by worker",
    by_hand="load a worker through a frontend that does not track load; send others",
)
def test_router_that_does_not_track_load_does_not_avoid_it(
    deployment: Deployment, request: pytest.FixtureRequest, traces: Traces, evidence: Evidence
):
    """A router avoids the worker that it has loaded; one that tracks no load does not."""
    of = deployment if deployment.shared else request.getfixturevalue("own")
    loaded, *others = of.registered_workers()
    if not others:
        raise NotOffered("one worker leaves no choice: it needs two (dynamo_workers)")
    tuned: Tuned | None = None if deployment.shared else request.getfixturevalue("tuned")
    routers = {"tracked": the_frontend(of)} | ({"not tracked": tuned["load-ignored"]} if tuned else {})
    chosen, counted_before = {}, requests_of(of)
    for name, url in routers.items():
        with kept_busy(of, traces, url, STREAMS, STREAM_BLOCKS, [loaded.instance_id]):
            chosen[name] = counted(ask_often(of, traces, url, blocks=BLOCKS))
    evidence.table(
        "requests by worker",
        ["router's load", "worker", "requests"],
        [[name, *each] for name, counts in chosen.items() for each in counts.items()],
    )
    if loaded.hex_id in chosen["tracked"]:
        require_alone(of, counted_before, REQUESTS + STREAMS)
    assert loaded.hex_id not in chosen["tracked"], (
        f"a router that tracks load chose the loaded worker {loaded.hex_id}: {chosen['tracked']}"
    )
    assert not tuned or loaded.hex_id in chosen["not tracked"], (
        f"{tuned.no_effect_of('load-ignored')}: the loaded worker {loaded.hex_id} is avoided all the same, "
        f"{chosen['not tracked']}"
    )


@own_frontends
@check(
    "M06-26",
    judged="`--no-router-kv-events --router-ttl-secs 2`: predicted at once, and not any more later",
    by_hand="--no-router-kv-events --router-ttl-secs 2: send a prompt, at once again, 3 s later again",
)
def test_router_forgets_its_own_guesses(own: ManagedDeployment, tuned: Tuned, traces: Traces):
    """Without KV events a router assumes that what it sent is cached, and only for the configured time."""
    size, url = traces.block_size, tuned["ttl"]
    # each is asked for once more only: an answer makes its time begin anew
    prompts = [traces.tokens(BLOCKS * size + 1) for _ in range(ASKED + 1)]
    first = [send(own, prompt, size, url=url) for prompt in prompts]
    guessed = send(own, prompts[-1], size, url=url, pinned_to=first[-1].worker)
    ask = zip(prompts, first, strict=True)

    def look() -> tuple[Routed | None, object]:
        prompt, before = next(ask)
        answer = send(own, prompt, size, url=url, pinned_to=before.worker)
        return (answer if answer.predicted == 0 else None), answer.told

    require_all_served((*first, guessed))
    assert guessed.predicted == BLOCKS, (
        f"{tuned.no_effect_of('ttl')}: {BLOCKS} blocks are to be predicted, {guessed.told}"
    )
    try:
        wait_until(look, Deadline((ASKED - 1) * ASKED_EVERY_S, "a guess to be forgotten"), every_s=ASKED_EVERY_S)
    except DeadlineExceeded as error:
        raise AssertionError(f"{tuned.no_effect_of('ttl')}: {error}") from None


@own_frontends
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.3,<1.5",
    shows="waited 5.0 s for requests to be served again once the load was gone",
    reason="A frontend with --active-decode-blocks-threshold refuses requests although the load is gone.",
)
@check(
    "M06-27",
    judged="`--active-decode-blocks-threshold`: refused with 529 or 503 while all workers are above it, served by a "
    "frontend without it, served again afterwards",
    evidence="answers",
    by_hand="--active-decode-blocks-threshold 0.001: load every worker, send one more",
)
def test_busy_workers_are_not_given_more(own: ManagedDeployment, tuned: Tuned, traces: Traces, evidence: Evidence):
    """Above the threshold a frontend refuses requests as overload; below it all are served again."""
    size, url = traces.block_size, tuned["busy"]
    workers = [each.instance_id for each in own.registered_workers()]

    def ask() -> Routed:
        return send(own, traces.tokens(size + 1), size, url=url)

    def refused() -> tuple[Routed | None, object]:
        answer = ask()
        return (answer if answer.error else None), answer.told

    def served() -> tuple[Routed | None, object]:
        answer = ask()
        return (None if answer.error else answer), answer.told

    with kept_busy(own, traces, own.endpoint.url, STREAMS, STREAM_BLOCKS, workers):
        try:
            busy = wait_until(refused, Deadline(BUSY_WITHIN_S, "a request to be refused"))
        except DeadlineExceeded as error:
            raise AssertionError(f"{tuned.no_effect_of('busy')}: {error}") from None
        elsewhere = send(own, traces.tokens(size + 1), size)
    evidence.text("while all workers were busy", f"{busy.told}\n{elsewhere.told}")
    assert str(busy.error).startswith(OVERLOADED), f"a refusal should be one of {OVERLOADED}, it is {busy.error}"
    assert not elsewhere.error, f"a frontend without the threshold refuses as well: {elsewhere.error}"
    wait_until(served, Deadline(BUSY_WITHIN_S, "requests to be served again once the load was gone"))


@own_frontends
@check(
    "M06-28",
    judged="a named worker serves; a request that names none is refused",
    by_hand="--router-mode direct: with nvext.backend_instance_id and without",
    causes=[15],
)
def test_direct_mode_serves_only_by_name(own: ManagedDeployment, tuned: Tuned, traces: Traces):
    """In mode direct, the worker that a request names serves it; a request that names none is refused."""
    dialect(tuned.version).require_workers_named_in("direct")
    size, url = traces.block_size, tuned["direct"]
    named = {
        each.hex_id: send(own, traces.tokens(8), size, url=url, pinned_to=each.instance_id)
        for each in own.registered_workers()
    }
    nobody = send(own, traces.tokens(8), size, url=url)
    wrong = [f"{asked} was named, {each.told}" for asked, each in named.items() if asked != f"{each.worker or 0:x}"]
    assert not wrong, f"requests that name a worker are not served by it: {wrong[0]}"
    assert nobody.error, (
        f"no effect of --router-mode direct is seen: a request that names no worker is served, {nobody.told}"
    )
