"""Runs of the real suite with a plant in place."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.plants.plant import Plant
from fixtures.plants.private_network import INVENTORY as PRIVATE
from fixtures.plants.private_network import in_private_network
from fixtures.tests.module_source import TESTS, checks_of
from plugins.plants import modules_of
from plugins.tests.children import environment

ROOT = Path(__file__).parents[2]
PARTS = ("conftest.py", "pyproject.toml", "fixtures", "plugins", "inventory", TESTS)
REPORT_PARTS = ("templates", "run.schema.json")
# module 08 takes 300 s, a plant that lets every wait run out twice that; and the machine may be busy
RUN_WITHIN_S = 900
# on emulated processors an engine alone takes six minutes to start, and others may use these as well
ALONE_WITHIN_S = 3600
# characters of the output of a run without a record: why it has none stands at its end
LAST_WORDS = 4000


@dataclass(frozen=True)
class PlantRun:
    """What one child run left: pytest's exit status, run.json, and all that it printed."""

    exit_status: int
    record: dict[str, Any]
    output: str


def copy_of_the_suite(target: Path) -> Path:
    """A copy whose reports are its own: the checkout's reports/latest stays the user's."""
    for part in (*PARTS, *(f"reports/{name}" for name in REPORT_PARTS)):
        source, copy = ROOT / part, target / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy)
    return target


def run_suite(
    suite: Path,
    *arguments: str,
    inventory: str = "local",
    private_network: bool = False,
    within_s: float = RUN_WITHIN_S,
) -> PlantRun:
    """pytest as a child in the copy `suite`, on an inventory, or alone in a network on the one for that.

    AssertionError with the end of its output when it left no record.
    """
    command = [sys.executable, "-m", "pytest", "-q", *arguments, "--inventory"]
    if private_network:
        command = in_private_network([*command, f"inventory/{PRIVATE}.yaml"])
    else:
        command.append(f"inventory/{inventory}.yaml")
    latest = suite / "reports" / "latest"
    latest.unlink(missing_ok=True)
    done = subprocess.run(
        command,
        cwd=suite,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=within_s,
    )
    path = latest / "run.json"
    assert path.is_file(), f"pytest ended with {done.returncode} and left no record:\n{done.stdout[-LAST_WORDS:]}"
    return PlantRun(done.returncode, json.loads(path.read_text(encoding="utf-8")), done.stdout)


def short_form(plant: type[Plant]) -> list[str]:
    """Node ids of the checks that the plant names, and of the smoke checks of their modules."""
    return [
        check.node_id
        for check in checks_of(ROOT)
        if check.id in plant.catches or (check.module in modules_of(plant) and check.smoke)
    ]
