"""Every plant is caught by the checks that it names and by no others, and nothing is caught where nothing is planted.

Each plant runs against its named checks and the smoke checks of their modules. `pytest plugins -m nightly` runs every
plant against whole modules instead, and those that take long besides.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.plants import Plant, load_plants
from fixtures.tests.module_source import TESTS, checks_of
from plugins.tests.plant_run import ROOT, copy_of_the_suite, mistakes, run_suite, short_form

PLANTS = load_plants()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "whole" not in metafunc.fixturenames:
        return
    whole = "nightly" in (metafunc.config.getoption("markexpr") or "")
    chosen = [plant for plant in PLANTS.values() if whole or not plant.nightly]
    marks = [pytest.mark.nightly] if whole else []
    cases = [pytest.param(plant, whole, id=plant.name, marks=marks) for plant in chosen]
    metafunc.parametrize(("plant", "whole"), cases)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_suite(tmp_path_factory.mktemp("suite"))


def test_plant_is_caught_and_nothing_else_turns_red(plant: Plant, whole: bool, suite: Path) -> None:
    chosen = [f"{TESTS}/{module}" for module in plant.modules] if whole else short_form(plant)
    chosen += ["-m", "not nightly"]  # the long form of a check has the same judge
    where = {"inventory": plant.inventory, "private_network": plant.private_network}
    run = run_suite(suite, *chosen, "--plant", plant.name, **where)
    assert not mistakes(plant, run.record, run.exit_status), run.output


def test_clean_run_is_accepted(suite: Path) -> None:
    run = run_suite(suite, TESTS)
    red = [check for check in run.record["checks"] if check["outcome"] in ("failed", "error")]
    assert (run.exit_status, run.record["verdict"], red) == (0, "ACCEPTED", []), run.output
    assert not run.record["tear_down_errors"], run.output


def test_clean_run_in_a_network_of_its_own_is_accepted(suite: Path) -> None:
    run = run_suite(suite, f"{TESTS}/module_05_messaging/test_zmq_events.py", private_network=True)
    outcomes = {check["outcome"] for check in run.record["checks"]}
    assert (run.exit_status, run.record["verdict"], outcomes) == (0, "ACCEPTED", {"passed"}), run.output
    assert not run.record["tear_down_errors"], run.output


def test_plants_name_checks_and_classes_that_exist() -> None:
    known = {check.id for check in checks_of(ROOT)}
    for plant in PLANTS.values():
        assert plant.checks, f"{plant.name} names no check"
        assert plant.checks.keys() <= known, (
            f"{plant.name} names checks that do not exist: {plant.checks.keys() - known}"
        )
        plant.stages()  # raises LookupError when there is no class of its name


# the judge itself: a made-up record of a plant that was caught, and what each change to it must be told as

CAUGHT = Plant(
    "made_up", "breaks the bring-up", {"M90-01": "no lease", "M90-02": "too late"}, ("module_90_made_up",), (), False
)


def made_up_record() -> dict[str, Any]:
    def check(name: str, outcome: str, reason: str = "") -> dict[str, Any]:
        return {"id": name, "case": "", "outcome": outcome, "reason": reason}

    return {
        "plant": "made_up",
        "verdict": "REJECTED",
        "problems": [],
        "tear_down_errors": [],
        "checks": [
            check("M90-01", "failed", "worker-1 has no lease"),
            check("M90-02", "failed", "the answer came too late"),
            check("M90-03", "passed"),
            check("M90-04", "error", "blocked by M90-01: worker-1 has no lease"),
            check("M90-05", "not_covered", "gpu is not declared"),
        ],
    }


def changed(number: int, **fields: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["checks"][number].update(fields)


def test_judge_is_content_with_a_plant_that_is_caught() -> None:
    assert mistakes(CAUGHT, made_up_record(), 1) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(changed(0, outcome="passed", reason=""), "M90-01 stays passed", id="stays-green"),
        pytest.param(changed(1, outcome="not_covered"), "M90-02 stays not_covered", id="not-covered"),
        pytest.param(lambda record: record["checks"].pop(1), "M90-02 stays out: it did not run", id="did-not-run"),
        pytest.param(changed(2, outcome="failed", reason="why"), "M90-03 is red as well: why", id="red-elsewhere"),
        pytest.param(changed(1, reason="it is wrong"), "does not say 'too late': it is wrong", id="wrong-word"),
        pytest.param(
            changed(1, outcome="error", reason="too late"), "M90-02 is an error: too late", id="named-is-error"
        ),
        pytest.param(
            changed(3, reason="could not look: x"), "M90-04 is an error: could not look: x", id="error-elsewhere"
        ),
        pytest.param(changed(3, reason="blocked by M90-03: x"), "M90-04 is an error: blocked", id="blocked-by-another"),
        pytest.param(lambda record: record.update(verdict="INCOMPLETE"), "the verdict is INCOMPLETE", id="verdict"),
        pytest.param(lambda record: record.update(plant=None), "the record is of the plant None", id="no-plant"),
        pytest.param(lambda record: record["problems"].append("p"), "problem: p", id="problem"),
        pytest.param(lambda record: record["tear_down_errors"].append("left"), "tear-down: left", id="tear-down"),
    ],
)
def test_judge_tells_what_is_wrong(change: Callable[[dict[str, Any]], object], told: str) -> None:
    record = made_up_record()
    change(record)
    found = mistakes(CAUGHT, record, 1)
    assert len(found) == 1 and told in found[0], found


def test_judge_wants_the_exit_status_of_a_rejected_run() -> None:
    assert mistakes(CAUGHT, made_up_record(), 0) == ["the verdict is REJECTED, exit status 0"]
