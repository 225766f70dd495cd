"""Fixtures of module 10: disaggregated prefill and decode, asked the oracle's prompts, compared with the baseline."""

from collections.abc import Iterator

import pytest

from fixtures.answers.ask import ask, ask_all
from fixtures.answers.compare import most_allowed
from fixtures.answers.oracle import ANSWER_TOKENS, AT_ONCE, Oracle, allowed_gap, control, keep_allowed, kept_allowed
from fixtures.baseline.record import RunSet, load, store
from fixtures.baseline.repeats import Target
from fixtures.baseline.replicas import OWN_SERVER_OF, planned, replicas, require_own_server, serving_nodes
from fixtures.baseline.run_set import MeasuredSet, measured_baseline, measured_set, path_of
from fixtures.basics.deadline import DeadlineExceeded, Threads
from fixtures.basics.errors import BringUpFailed, CouldNotLook, NotOffered
from fixtures.clients.inference import InferenceEndpoint
from fixtures.cluster.nodes import RemoteError
from fixtures.cluster.probes.capabilities import ATTACHED
from fixtures.load.from_here import outcomes, run_load
from fixtures.load.plan import plan
from fixtures.load.request import LEFT
from fixtures.product.deployments import placement
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.runtimes.model_files import ModelFiles
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import (
    DIVISIONS_CHECK,
    Asked,
    Crowd,
    Division,
    OwnSides,
    Sides,
)
from tests_by_module.module_10_disaggregated_serving.running import running_sides
from tests_by_module.module_10_disaggregated_serving.starting import started_sides

# of answers that nobody waits for: they would take minutes
LEFT_TOKENS = (2000, 2000)
ABORTS = 24


def profiles_asked_for(request: pytest.FixtureRequest, run: Run) -> list[str]:
    """The profiles of workloads that checks of this session ask for, those of the short form first."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    forms = sorted({call["form"] for call in calls if "form" in call}, reverse=True)
    return list(dict.fromkeys(run.inventory.cluster.profile_of(form) for form in forms))


@pytest.fixture(scope="package")
def files(run: Run) -> ModelFiles:
    """Those of the served model; of a deployment that runs already the small ones only. Raises NotOffered."""
    if not run.inventory.cluster.dynamo_managed:
        return run.deployment().model_files()
    return run.equipment()[serving_nodes(run.inventory.nodes)[0]].model_files()


@pytest.fixture(scope="package")
def baselines(request: pytest.FixtureRequest, run: Run, client: Equipment) -> dict[str, RunSet]:
    """By profile, what module 09 has kept in this run; where it did not run, measured now.

    All that this session needs, at once: later the servers of a baseline would share the nodes with `sides`.
    """
    require_own_server(run.equipment()[serving_nodes(run.inventory.nodes)[0]].runtime)
    wanted = profiles_asked_for(request, run)
    if absent := [profile for profile in wanted if not path_of(run.report_dir, profile).exists()]:
        on = serving_nodes(run.inventory.nodes)
        name = run.inventory.model(run.inventory.node(on[0]).dynamo_model).served_name
        equipment, facts, folder = run.equipment()[on[0]], run.facts(), run.report_dir
        with replicas(planned(run.equipment(), on, name)) as servers:
            for profile in absent:
                measured_baseline(servers, client, profile, equipment=equipment, facts=facts, folder=folder)
    return {profile: run.at("module_10.baseline", load(path_of(run.report_dir, profile))) for profile in wanted}


@pytest.fixture(scope="package")
def baseline(baselines: dict[str, RunSet], profile: str) -> RunSet:
    return baselines[profile]


@pytest.fixture(scope="package")
def control_of_answers(run: Run, request: pytest.FixtureRequest) -> float | Exception | None:
    """How far answers may be from the reference's, in log probability, or why that is not known: who needs it is told.

    By module 09 of this run, else by a server of vLLM's own or an aggregated worker of another engine, now. None where
    no server is started: for a model whose answers mean nothing, beside a deployment that runs already, and on emulated
    processors, where one takes minutes.
    """
    if not run.inventory.cluster.dynamo_managed:
        return None
    try:
        oracle: Oracle = request.getfixturevalue("oracle")
        if not oracle.steps or run.inventory.cluster.dynamo_lab == "virtual":
            return None
        if known := kept_allowed(run.report_dir):
            return known
        on = serving_nodes(run.inventory.nodes)[:1]
        name = run.inventory.model(run.inventory.node(on[0]).dynamo_model).served_name
        if run.equipment()[on[0]].runtime.spec.engine == OWN_SERVER_OF:
            with replicas(planned(run.equipment(), on, name)) as (server,):
                found = control(InferenceEndpoint(server.node.reach(server.url), name), oracle)
        else:
            with run.own_deployment("module_10.control") as aggregated:
                found = control(aggregated.endpoint, oracle, server="dynamo")
        gap = allowed_gap(found.values(), oracle.dtype)
    except (ServiceFailed, DeadlineExceeded, RemoteError, CouldNotLook, BringUpFailed, ValueError) as error:
        return error
    keep_allowed(gap, run.report_dir)
    return gap


@pytest.fixture(scope="package")
def allowed(control_of_answers: float | Exception | None, oracle: Oracle) -> float:
    """How far answers may be from the reference's, in log probability. Raises CouldNotLook."""
    if control_of_answers is None:
        return most_allowed(oracle.dtype)
    if isinstance(control_of_answers, Exception):
        raise CouldNotLook(f"nothing to hold answers against: {control_of_answers}")
    return control_of_answers


@pytest.fixture(scope="package")
def sides(run: Run, control_of_answers: float | Exception | None, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """Those that run already, or a deployment of its own with disaggregated prefill and decode. Raises BringUpFailed.

    The server that the control is asked of, and other divisions of the workers, have ended by then: they would take
    their memory.
    """
    if not run.inventory.cluster.dynamo_managed:
        yield running_sides(run)
        return
    if run.inventory.cluster.dynamo_divisions and any(
        "divisions" in getattr(item, "fixturenames", ()) for item in request.session.items
    ):
        request.getfixturevalue("divisions")  # later they would share the nodes with these
    with started_sides(run, "module_10.disaggregated", placement.disaggregated(run.inventory.nodes)) as started:
        yield started


@pytest.fixture(scope="package")
def own_sides(sides: Sides) -> OwnSides:
    """The same, for checks that stop, kill or change them. Raises NotOffered where they ran already."""
    if not isinstance(sides, OwnSides):
        raise NotOffered(ATTACHED)
    return sides


@pytest.fixture(scope="package")
def cold(sides: Sides, oracle: Oracle) -> dict[str, Asked]:
    """The first prompts, one after the other, by name."""
    asked = {}
    for prompt in oracle.prompts["first"]:
        before = sides.counted()
        answer = ask(sides.deployment.endpoint, prompt, max_tokens=ANSWER_TOKENS)
        counted = sides.counted_since(before, len(prompt.ids))
        asked[prompt.name] = Asked(len(prompt.ids), answer, counted)
    return asked


@pytest.fixture(scope="package")
def crowd(run: Run, sides: Sides, oracle: Oracle) -> Crowd:
    """The second prompts, amid clients that leave after two chunks of a long answer."""
    endpoint = sides.deployment.endpoint
    leaving = plan(run.seed + 3, ABORTS, (64, 512), LEFT_TOKENS, leave_after_chunks=2)
    with Threads(1) as aside:
        load_ = aside.submit(run_load, endpoint, leaving, concurrency=AT_ONCE, within_s=120)
        answers = ask_all(endpoint, oracle.prompts["second"], max_tokens=ANSWER_TOKENS, at_once=AT_ONCE)
        ends = outcomes(load_.result())
    return Crowd(answers, ends[LEFT], ", ".join(f"{count} {end}" for end, count in ends.items()))


@pytest.fixture(scope="package")
def disaggregated_set(
    run: Run, baseline: RunSet, sides: Sides, client: Equipment, files: ModelFiles, profile: str
) -> MeasuredSet:
    """The same workloads; `baseline` comes first, so that its servers are gone when these start."""
    return measured_sides("Dynamo", run, sides, client, files, profile)


@pytest.fixture(scope="package")
def divisions(
    request: pytest.FixtureRequest, run: Run, client: Equipment, files: ModelFiles
) -> dict[str, Division | Exception]:
    """Each of `dynamo_divisions` under all workloads that this session needs, or why it was not measured."""
    found: dict[str, Division | Exception] = {}
    for name in run.inventory.cluster.dynamo_divisions:
        try:
            placed = placement.divided(run.inventory.nodes, name)
            with started_sides(run, "module_10.division", placed, DIVISIONS_CHECK) as sides:
                before = {worker: sides.count_of(each) for worker, each in sides.workers.items()}
                sets = {
                    profile: measured_sides(f"Dynamo {name}", run, sides, client, files, profile).runs
                    for profile in profiles_asked_for(request, run)
                }
                found[name] = Division(sets, sides.of_equal_share(sides.tokens_since(before)))
        except BringUpFailed as error:
            found[name] = BringUpFailed(error.check_id, f"{name}: {error.reason}")
        except (CouldNotLook, NotOffered, RemoteError) as error:
            found[name] = error
    return found


def measured_sides(
    name: str, run: Run, sides: Sides, client: Equipment, files: ModelFiles, profile: str
) -> MeasuredSet:
    """All workloads of `profile` against the frontend of these workers; kept in the run's folder."""
    target = Target(
        client=client,
        urls=(sides.deployment.frontend_url,),
        model_name=sides.deployment.settings.model_name,
        nodes=tuple(worker.node for worker in sides.workers.values()),
        servers={},
    )
    equipment = run.equipment()[sides.decode[0].node.name]
    made = measured_set(name, target, profile, equipment=equipment, files=files, facts=run.facts())
    store(made.runs, path_of(run.report_dir, profile, of=name.lower().replace(" ", "-")))
    return made
