"""Several frontends route for the same workers: they know the same caches, and of each other's load."""

from collections import Counter

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.served import require_all_served
from fixtures.load.traces import Traces
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_06_kv_aware_routing.extra_frontends import kept_busy, more_frontends
from tests_by_module.module_06_kv_aware_routing.routing import Index, send

pytestmark = pytest.mark.needs("managed", "kv_router", why="settings")

BLOCKS = 5
SYNCED = ("--router-replica-sync",)
STREAMS = 4
# all of that many on one of two workers by chance: less often than once in a million times
REQUESTS = 24


@check(
    "M06-13",
    judged="a prompt served through one is predicted by the other on the same worker, both ways",
    by_hand="start a second frontend; send a prompt to one, then to the other",
)
def test_two_frontends_agree(run: Run, own: ManagedDeployment, traces: Traces):
    """Each of two frontends predicts the hits of what was served through the other."""
    size = traces.block_size
    first = own.reach(own.frontend_url)
    told = []
    with more_frontends(run, own, traces, {"2": ()}) as beside:
        for here, there in ((first, beside["2"]), (beside["2"], first)):
            prompt = traces.tokens(BLOCKS * size + 1)
            index = Index(own, there)
            before = index.stored()
            served = send(own, prompt, size, url=here)
            index.wait_beyond(before)
            told.append((served, send(own, prompt, size, url=there)))
    for (served, other), which in zip(told, ("the second", "the first"), strict=True):
        assert not served.error and not other.error, f"{served.told}; {other.told}"
        assert (other.predicted, other.worker) == (BLOCKS, served.worker), (
            f"{which} frontend is to predict {BLOCKS} blocks at the worker that served the prompt through the other: "
            f"{served.told}, then {other.told}"
        )


@check(
    "M06-23",
    judged="with `--router-replica-sync` a frontend leaves out the worker that another keeps busy; one without it "
    "does not",
    evidence="requests by worker",
    by_hand="two frontends with --router-replica-sync: load a worker through one, send to the other",
)
def test_two_frontends_know_each_others_load(run: Run, own: ManagedDeployment, traces: Traces, evidence: Evidence):
    """With replica sync a frontend avoids a worker that another frontend has loaded; without it, it does not."""
    size = traces.block_size
    loaded = own.registered_workers()[0]
    requests = {}
    with more_frontends(run, own, traces, {"synced-1": SYNCED, "synced-2": SYNCED}) as beside:
        asked = {"with replica sync": beside["synced-2"], "without": own.reach(own.frontend_url)}
        with kept_busy(own, traces, beside["synced-1"], STREAMS, BLOCKS, [loaded.instance_id]):
            for name, url in asked.items():
                requests[name] = [send(own, traces.tokens(size + 1), size, url=url) for _ in range(REQUESTS)]
    require_all_served([each for done in requests.values() for each in done])
    counts = {name: Counter(f"{each.worker:x}" for each in done) for name, done in requests.items()}
    evidence.table(
        f"requests by worker while {loaded.hex_id} is loaded through another frontend",
        ["frontend", "worker", "requests"],
        [[name, *each] for name, chosen in counts.items() for each in chosen.items()],
    )
    assert counts["without"][loaded.hex_id], (
        f"nothing to compare: a frontend without replica sync avoids the loaded worker, too: {counts['without']}"
    )
    assert not counts["with replica sync"][loaded.hex_id], (
        f"no effect of {SYNCED[0]} is seen: of {REQUESTS} requests {counts['with replica sync'][loaded.hex_id]} went "
        f"to the worker {loaded.hex_id} that another frontend keeps busy; is it set on every frontend, and do "
        "active_sequences_events reach them?"
    )
