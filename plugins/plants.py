"""Plants: which there are, and whether a run has caught the one that was planted in it."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fixtures.basics.check_source import SITE_ID, TESTS, SiteChecks
from plugins.against import slower

if TYPE_CHECKING:
    from fixtures.plants.plant import Plant

ROOT = Path(__file__).parents[1]
SAID = 3  # reasons in the terminal's one line
CAUGHT, IN_PART, NOT_CAUGHT = "caught", "caught in part", "not caught"


def load_plants(root: Path = ROOT, site: SiteChecks | None = None) -> dict[str, type[Plant]]:
    """The plants by name: each class with `catches` in a plants*.py of a module or of a site. `root` is on sys.path.

    Raises ValueError when two have one name.
    """
    from fixtures.plants.plant import Plant

    plants: dict[str, type[Plant]] = {}
    modules = _files_of_plants(root)
    if site:
        sys.path.insert(0, str(site.folder))  # as pytest does for its checks
        modules += [importlib.import_module(path.stem) for path in sorted(site.folder.glob("plants*.py"))]
    for module in modules:
        for found in vars(module).values():
            own = isinstance(found, type) and issubclass(found, Plant) and found.__module__ == module.__name__
            if own and "catches" in vars(found):
                if other := plants.get(found.name):
                    raise ValueError(f"two plants are called {found.name}: in {other.__module__} and {module.__name__}")
                plants[found.name] = found
    return plants


def load_not_planted(root: Path = ROOT) -> dict[str, str]:
    """Why a check has no plant, by its id: NOT_PLANTED in the plants*.py of the modules. `root` is on sys.path."""
    found: dict[str, str] = {}
    for module in _files_of_plants(root):
        found |= getattr(module, "NOT_PLANTED", {})
    return found


def _files_of_plants(root: Path) -> list[ModuleType]:
    files = sorted((root / TESTS).glob("module_*/plants*.py"))
    return [importlib.import_module(f"{TESTS}.{path.parent.name}.{path.stem}") for path in files]


def plant_of(name: str, root: Path = ROOT, site: SiteChecks | None = None) -> type[Plant]:
    """The plant of that name. Raises LookupError, which names those that are called alike; ValueError as above."""
    plants = load_plants(root, site)
    if name not in plants:
        near = difflib.get_close_matches(name, plants, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise LookupError(f"there is no plant {name!r}; {meant}--list-plants names all {len(plants)}")
    return plants[name]


def modules_of(plant: type[Plant], root: Path = ROOT, site: SiteChecks | None = None) -> tuple[str, ...]:
    """The packages of the checks that it must turn red; of a package that is not there, the check's id."""
    packages = {f"M{path.name[7:9]}": path.name for path in (root / TESTS).glob("module_*")}
    if site:
        packages |= {each[:-3]: site.module for each in plant.catches if SITE_ID.fullmatch(each)}
    return tuple(dict.fromkeys(packages.get(each[:-3], each) for each in plant.catches))


@dataclass(frozen=True)
class Judgement:
    """Whether a run has caught its plant: `word` is CAUGHT, IN_PART or NOT_CAUGHT."""

    plant: str
    word: str
    by: tuple[str, ...]  # ids of the checks that are red for its reason
    why_not: tuple[str, ...]  # a sentence on each thing that is otherwise than expected
    not_selected: tuple[str, ...]  # ids of the checks that it names and the run did not select

    @property
    def line(self) -> str:
        """The line of the terminal."""
        begin = f"plant {self.plant}: {self.word.upper()}"
        if self.word == NOT_CAUGHT:
            reasons = [each.splitlines()[0] for each in self.why_not[:SAID]]
            more = len(self.why_not) - len(reasons)
            return f"{begin}: {'; '.join(reasons)}{f'; and {more} more in run.json' if more else ''}"
        if self.word == IN_PART:
            return f"{begin}, by {', '.join(self.by)}; not selected: {', '.join(self.not_selected)}"
        return f"{begin} by {', '.join(self.by)}, as expected"

    def record(self) -> dict[str, Any]:
        """The plant section of run.json."""
        lists = {"by": list(self.by), "why_not": list(self.why_not), "not_selected": list(self.not_selected)}
        return {"name": self.plant, "word": self.word, **lists, "line": self.line}


def judge(plant: type[Plant], record: dict[str, Any], selected: Collection[str] | None = None) -> Judgement:
    """Whether the run of this record (run.json, with its verdict) has caught `plant`.

    It has when each check that the plant names is red for its reason, and no other but those that may be. Red is
    `failed`, or `error: blocked by ID` with a named ID: the bring-up that the plant broke; or a metric of the check is
    slower than the reference allows; of a plant that is refused, `not_covered`, and the run is INCOMPLETE. `selected`:
    the ids of the checks that the run selected, None for all.
    """
    found = []
    broken: set[str] = set()
    red: dict[str, list[str]] = {}
    for check in record["checks"]:
        name, outcome, reason = check["id"], check["outcome"], check["reason"]
        if plant.refused and outcome == "not_covered" and name in plant.catches:
            red.setdefault(name, []).append(reason)
        if outcome not in ("failed", "error"):
            continue
        blocked = any(reason.startswith(f"blocked by {named}:") for named in plant.catches)
        if outcome == "error" and not blocked:
            found.append(f"{name} is an error: {reason}")
            broken.add(name)
        elif name in plant.catches:
            causes = [each["cause"] for each in check["found_causes"]]
            red.setdefault(name, []).append("\ncause: ".join([reason, *causes]))
        elif not blocked and not (name in plant.may_catch and plant.may_catch[name] in reason):
            found.append(f"{name} is red as well: {reason}")
    got_slower = {each["sentence"]: each["check"] for each in slower(record.get("comparison"))}
    for sentence, name in got_slower.items():
        if name in plant.catches:
            red.setdefault(name, []).append(sentence)
        elif not plant.compared:
            found.append(f"got slower as well: {sentence}")
    not_selected = tuple(name for name in plant.catches if selected is not None and name not in selected)
    for name, word in plant.catches.items():
        if name not in red and name not in broken and name not in not_selected:
            outcomes = sorted({check["outcome"] for check in record["checks"] if check["id"] == name})
            found.append(f"{name} stays {' and '.join(outcomes)}" if outcomes else f"{name} did not run")
        elif name in red and not any(word in reason for reason in red[name]):
            found.append(f"{name} is red, but does not say {word!r}: {red[name][0]}")
    if len(not_selected) == len(plant.catches):
        found.append(f"none of the checks that must catch it was selected: {', '.join(not_selected)}")
    elif (record["verdict"], record["exit_status"]) != (("INCOMPLETE", 6) if plant.refused else ("REJECTED", 1)):
        found.append(f"the verdict is {record['verdict']}, exit status {record['exit_status']}")
    found += [f"problem: {problem}" for problem in record["problems"] if problem not in got_slower]
    found += [f"tear-down: {error}" for error in record["tear_down_errors"]]
    word = NOT_CAUGHT if found else IN_PART if not_selected else CAUGHT
    by = tuple(name for name, said in plant.catches.items() if any(said in reason for reason in red.get(name, ())))
    return Judgement(plant.name, word, by, tuple(found), not_selected)
