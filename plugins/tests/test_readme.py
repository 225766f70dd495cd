"""README.md agrees with what it describes."""

from __future__ import annotations

import re
from pathlib import Path

from fixtures.plants.plant import Plant
from plugins.marks import MARKERS
from plugins.plants import load_plants

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    part = README.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def on_its_inventory(plant: type[Plant]) -> str:
    """What the command needs besides, where the embedded default does not cover the plant's checks."""
    return "" if plant.inventory == "local" else f" --inventory inventory/{plant.inventory}.yaml"


def test_track_record_is_the_plants():
    told = {
        name: [does.lower(), *rest] for name, does, *rest in rows("Track record: every detector proven by sabotage")
    }
    is_so = {
        plant.name: [
            plant.does.removesuffix(".").lower(),
            ", ".join(plant.catches),
            ", ".join(map(str, plant.failures)) or "–",  # noqa: RUF001
            f"`--plant {plant.name}{on_its_inventory(plant)}`",
        ]
        for plant in load_plants().values()
    }
    assert told == is_so


def test_modules_told_are_those_that_exist():
    told = {re.match(r"\[(\w+)\]", row[0])[1] for row in rows("Modules")}
    assert told == {path.name for path in (ROOT / "tests_by_module").glob("module_*") if path.is_dir()}


def test_every_marker_is_told_with_an_example():
    told = " ".join(row[0] for row in rows("Selecting checks"))
    for marker in MARKERS:
        assert re.search(rf"`{marker.split('(')[0]}\b", told), f"{marker} is not in README.md"


def test_the_two_commands_stand_on_lines_of_their_own():
    commands = [line for line in README.splitlines() if line.startswith("PIP_BREAK_SYSTEM_PACKAGES=1 ")]
    assert [line.rpartition("pytest ")[2] for line in commands] == ["tests_by_module", "fixtures plugins -n 4"]
