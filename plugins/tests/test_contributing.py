"""CONTRIBUTING's example of a check works as it stands there: its check passes, and its plant turns it red."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.tests.test_module_shape import mistakes
from plugins.plants import load_not_planted, load_plants
from plugins.tests.plant_run import ROOT, copy_of_the_suite, run_suite

TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
# a block of code whose first line names a file is the file's text, or is put at its end
BLOCK = re.compile(r"(?ms)^```\w+\n# (\S+/\S+)(?P<append> \(append\))?\n(?P<text>.*?)^```$")
PART = r"(?:fixtures|plugins|inventory|tests_by_module|reports|\.github)/[\w./*-]+"


def files_of_the_example() -> list[tuple[str, bool, str]]:
    """(path, whether it is put at the file's end, text) of each block."""
    return [(found[1], bool(found["append"]), found["text"]) for found in BLOCK.finditer(TEXT)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite with the example in it."""
    copy = copy_of_the_suite(tmp_path_factory.mktemp("suite"))
    for path, appended, text in files_of_the_example():
        before = (copy / path).read_text(encoding="utf-8") + "\n\n" if appended else ""
        (copy / path).write_text(before + text, encoding="utf-8")
    return copy


def test_the_example_stays_in_one_folder() -> None:
    paths = [path for path, _, _ in files_of_the_example()]
    assert len(paths) == 3 and len({Path(path).parent for path in paths}) == 1, paths


def test_the_example_is_of_the_shape_that_modules_have(suite: Path) -> None:
    """Its plant is in the copy only, and the plants that are held against the module are those of this suite."""
    found = mistakes(suite / "tests_by_module" / "module_02_frontend", load_plants(), load_not_planted())
    assert found == ["M02-90 has no plant and no reason in NOT_PLANTED"]


def test_the_examples_check_passes(suite: Path) -> None:
    run = run_suite(suite, "tests_by_module", "-k", "M02-90")
    assert [(check["id"], check["outcome"]) for check in run.record["checks"]] == [("M02-90", "passed")], run.output
    assert run.record["checks"][0]["title"] == "The frontend lists its models in time.", run.output
    assert run.record["checks"][0]["measurements"][0]["judgement"] == "pass", run.output


def test_the_examples_plant_is_caught(suite: Path) -> None:
    run = run_suite(suite, "tests_by_module", "-k", "M02-90", "--plant", "models_listed_late")
    assert (run.record["plant"]["word"], run.exit_status) == ("caught", 1), run.output


def test_the_example_is_in_the_generated_tables(suite: Path) -> None:
    command = [sys.executable, "-m", "fixtures", "docs"]
    asked = subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=60)
    readme = (suite / "tests_by_module" / "module_02_frontend" / "README.md").read_text(encoding="utf-8")
    assert asked.returncode == 0 and "M02-90" in readme and "models_listed_late" in readme, asked.stdout + asked.stderr


def test_the_files_that_it_names_exist() -> None:
    new = {path for path, appended, _ in files_of_the_example() if not appended}
    named = set(re.findall(rf"(?<![\w/.-]){PART}", TEXT)) - new
    gone = sorted(path for path in named if "NAME" not in path and not list(ROOT.glob(path.rstrip("/."))))
    assert len(named) > 20 and not gone, gone
