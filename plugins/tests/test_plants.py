"""Every plant is caught by the checks that it names and by no others, and nothing is caught where nothing is planted.

Each plant runs against its named checks and the smoke checks of their modules. `pytest plugins -m nightly` runs every
plant against whole modules instead, and those that take long besides.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fixtures.basics.known_failures import load_known_failures
from fixtures.plants.plant import Plant
from fixtures.product.deployments.run_stages import DECLARED
from fixtures.tests.module_source import TESTS, checks_of
from plugins.plants import CAUGHT, IN_PART, NOT_CAUGHT, judge, load_plants, modules_of
from plugins.tests.plant_run import ALONE_WITHIN_S, ROOT, copy_of_the_suite, run_suite, short_form

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


def test_plant_is_caught_and_nothing_else_turns_red(plant: type[Plant], whole: bool, suite: Path) -> None:
    chosen = [f"{TESTS}/{module}" for module in modules_of(plant)] if whole and not plant.alone else short_form(plant)
    chosen += ["-m", "not nightly"]  # the long form of a check has the same judge
    where = {"inventory": plant.inventory, "private_network": plant.private_network}
    where |= {"within_s": ALONE_WITHIN_S} if plant.alone else {}
    if plant.compared:
        reference = run_suite(suite, *chosen, "--save-reference", **where)
        assert reference.exit_status == 0, reference.output
        chosen += ["--compare", "latest"]
    run = run_suite(suite, *chosen, "--plant", plant.name, **where)
    assert (run.record["plant"]["word"], run.exit_status) == (CAUGHT, 6 if plant.refused else 1), run.output
    assert run.record["plant"]["line"] in run.output.splitlines()


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


def test_plants_name_checks_and_failures_that_exist() -> None:
    known, failures = {check.id for check in checks_of(ROOT)}, set(load_known_failures())
    inventories = {path.stem for path in (ROOT / "inventory").glob("*.yaml")}
    for plant in PLANTS.values():
        assert plant.catches and all(plant.catches.values()), f"{plant.name} catches nothing, or says no word"
        assert plant.may_catch.keys() <= known - plant.catches.keys() and all(plant.may_catch.values()), plant.name
        assert plant.catches.keys() <= known, f"{plant.name}: there is no {plant.catches.keys() - known}"
        assert failures.issuperset(plant.failures), (
            f"{plant.name}: not in fixtures/basics/known_failures.yaml: {plant.failures}"
        )
        assert plant.inventory in inventories, f"{plant.name}: there is no inventory/{plant.inventory}.yaml"
        assert plant.does.endswith("."), f"{plant.name}: its docstring begins with no sentence: {plant.does!r}"


def test_plants_name_deployments_and_points_that_checks_have() -> None:
    said = set(patterns_in_checks(ROOT / TESTS))
    for plant in PLANTS.values():
        points = {each.point for each in map(partial(getattr, plant), dir(plant)) if hasattr(each, "point")}
        for name in {*plant.on, *points} - {DECLARED}:
            there = [each for each in said if fnmatchcase(name, each) or fnmatchcase(each, name)]
            assert there, f"{plant.name}: no check has a deployment or a point {name}"


def patterns_in_checks(folder: Path) -> Iterator[str]:
    """Names of deployments and points in the code of checks; with a * where an f-string has a value."""
    for path in folder.glob("*/*.py"):
        if path.name.startswith("plants"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)
            if re.match(r"module_\d\d\.", text):
                yield text


# the judge itself: a made-up record of a plant that was caught, and what each change to it must be told as


class MadeUp(Plant):
    """Breaks the bring-up."""

    catches = {"M90-01": "no lease", "M90-02": "too late"}  # noqa: RUF012


def made_up_record() -> dict[str, Any]:
    def check(name: str, outcome: str, reason: str = "") -> dict[str, Any]:
        return {"id": name, "case": "", "outcome": outcome, "reason": reason, "found_causes": []}

    return {
        "verdict": "REJECTED",
        "exit_status": 1,
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
    found = judge(MadeUp, made_up_record())
    assert (found.word, found.why_not, found.line) == (
        CAUGHT,
        (),
        "plant made_up: CAUGHT by M90-01, M90-02, as expected",
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(changed(0, outcome="passed", reason=""), "M90-01 stays passed", id="stays-green"),
        pytest.param(changed(1, outcome="not_covered"), "M90-02 stays not_covered", id="not-covered"),
        pytest.param(lambda record: record["checks"].pop(1), "M90-02 did not run", id="did-not-run"),
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
        pytest.param(lambda record: record.update(exit_status=0), "REJECTED, exit status 0", id="exit-status"),
        pytest.param(lambda record: record["problems"].append("p"), "problem: p", id="problem"),
        pytest.param(lambda record: record["tear_down_errors"].append("left"), "tear-down: left", id="tear-down"),
    ],
)
def test_judge_tells_what_is_wrong(change: Callable[[dict[str, Any]], object], told: str) -> None:
    record = made_up_record()
    change(record)
    found = judge(MadeUp, record)
    assert found.word == NOT_CAUGHT and len(found.why_not) == 1 and told in found.why_not[0], found
    assert found.line == f"plant made_up: NOT CAUGHT: {found.why_not[0]}"


def test_judge_takes_a_check_that_may_be_red_for_its_reason_alone() -> None:
    class SeenOnGpus(Plant):
        """Breaks the bring-up."""

        catches = MadeUp.catches
        may_catch = {"M90-03": "too slow"}  # noqa: RUF012

    record = made_up_record()
    assert judge(SeenOnGpus, record).word == CAUGHT
    changed(2, outcome="failed", reason="a transfer is too slow")(record)
    assert judge(SeenOnGpus, record).word == CAUGHT
    changed(2, outcome="failed", reason="why")(record)
    assert judge(SeenOnGpus, record).why_not == ("M90-03 is red as well: why",)


def test_judge_takes_a_refusal_to_measure() -> None:
    class Idle(MadeUp):
        """A worker serves nothing."""

        catches = {"M90-01": "not every worker"}  # noqa: RUF012
        refused = True

    record = made_up_record()
    del record["checks"][1:]
    changed(0, outcome="not_covered", reason="not every worker served")(record)
    record.update(verdict="INCOMPLETE", exit_status=6)
    assert judge(Idle, record).word == CAUGHT
    record.update(verdict="REJECTED", exit_status=1)
    assert judge(Idle, record).why_not == ("the verdict is REJECTED, exit status 1",)
    record.update(verdict="INCOMPLETE", exit_status=6)
    changed(0, outcome="not_covered", reason="another")(record)
    assert judge(Idle, record).why_not == ("M90-01 is red, but does not say 'not every worker': another",)


def metric(check: str, word: str) -> dict[str, Any]:
    return {"check": check, "word": word, "sentence": f"{check} ttft_ms is 99 ms: {word}"}


def test_judge_counts_what_got_slower_than_the_reference_allows() -> None:
    record = made_up_record()
    record["checks"][1].update(outcome="passed", reason="")
    slow, fast = metric("M90-02", "slower than allowed"), metric("M90-03", "faster")
    slow["sentence"] += ", too late"
    record |= {"comparison": {"metrics": [slow, fast]}, "problems": [slow["sentence"]]}
    found = judge(MadeUp, record)
    assert (found.word, found.by) == (CAUGHT, ("M90-01", "M90-02")), found


def test_judge_names_another_metric_that_got_slower() -> None:
    record, other = made_up_record(), metric("M90-03", "slower than allowed")
    record |= {"comparison": {"metrics": [other]}, "problems": [other["sentence"]]}
    found = judge(MadeUp, record)
    assert (found.word, found.why_not) == (NOT_CAUGHT, (f"got slower as well: {other['sentence']}",)), found


def test_judge_says_which_checks_were_not_selected() -> None:
    record = made_up_record()
    del record["checks"][1]
    found = judge(MadeUp, record, {"M90-01", "M90-03", "M90-04", "M90-05"})
    assert found.word == IN_PART
    assert found.line == "plant made_up: CAUGHT IN PART, by M90-01; not selected: M90-02"


def test_judge_says_that_no_check_was_selected() -> None:
    record = made_up_record() | {"verdict": "ACCEPTED", "exit_status": 0}
    record["checks"] = record["checks"][2:3]
    found = judge(MadeUp, record, {"M90-03"})
    assert found.word == NOT_CAUGHT
    assert found.line.endswith("NOT CAUGHT: none of the checks that must catch it was selected: M90-01, M90-02")


def test_the_line_of_a_plant_holds_three_reasons_and_only_their_first_lines() -> None:
    record = made_up_record()
    record["problems"] = [f"problem {number}\nmore of it" for number in range(5)]
    line = judge(MadeUp, record).line
    assert line.endswith("problem: problem 0; problem: problem 1; problem: problem 2; and 2 more in run.json")


def test_two_plants_of_one_name_are_refused(suite_of_plants: Callable[..., str]) -> None:
    assert "two plants are called broken" in suite_of_plants(FIRST, FIRST)


def test_a_part_of_plants_is_no_plant(suite_of_plants: Callable[..., str]) -> None:
    assert suite_of_plants(FIRST, SECOND) == "broken other_name"


FIRST = """
from fixtures.plants.plant import Plant
class Part(Plant): ...
class Broken(Part):
    "Breaks it."
    catches = {"M00-01": "word"}
"""
SECOND = """
from fixtures.plants.plant import Plant
from tests_by_module.module_00_one.plants import Broken
class Other(Broken):
    "Breaks something else."
    name = "other_name"
    catches = {"M01-01": "word"}
"""
LISTS = "from plugins.plants import load_plants; from pathlib import Path; print(*load_plants(Path('.')))"


@pytest.fixture
def suite_of_plants(tmp_path: Path) -> Callable[..., str]:
    """Gives the names of the plants in these files, one a module, or the error."""

    (tmp_path / TESTS).mkdir()
    (tmp_path / TESTS / "__init__.py").touch()

    def listed(*files: str) -> str:
        for number, text in enumerate(files):
            package = tmp_path / TESTS / f"module_0{number}_{('one', 'two')[number]}"
            package.mkdir()
            (package / "plants.py").write_text(text, encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        command = [sys.executable, "-W", "ignore", "-c", LISTS]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip()

    return listed
