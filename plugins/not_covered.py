"""What is not covered, grouped by what is not declared, and the inventory that covers most of each group."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.cluster.inventory import Inventory, InventoryError, load
from fixtures.cluster.probes.capabilities import NODE_CAPABILITIES
from plugins.checks import required_ids
from plugins.marks import may_run
from plugins.session import Settings

FOLDER = "inventory"
# how hard nodes are to come by: a lab's, those of one on emulated processors, where engines take minutes, and machines
ELSEWHERE = {"namespaces": 1, "virtual": 2, None: 3}
SITE_THRESHOLDS = ".thresholds"  # the end of the stem of a site's thresholds, which lie in the same folder


@dataclass(frozen=True)
class Group:
    """The checks of a record that lack the same thing."""

    reason: str  # what is not declared: the first clause of each check's reason
    checks: list[dict[str, Any]]
    inventory: str | None  # a file name in inventory/; None where no inventory there covers any of them
    covers: int  # so many of the checks, without their cases
    asked: bool  # False: the deployment does not offer it, which no inventory declares

    @property
    def ids(self) -> list[str]:
        return list(dict.fromkeys(check["id"] for check in self.checks))

    @property
    def counted(self) -> str:
        return counted(self.checks)

    @property
    def hint(self) -> str:
        """What to run instead; empty where no inventory can change it."""
        if self.inventory is None:
            return f"no inventory in {FOLDER}/ covers it" if self.asked else ""
        part = f" (covers {self.covers})" if self.covers < len(self.ids) else ""
        return f"try --inventory {FOLDER}/{self.inventory}{part}"

    @property
    def line(self) -> str:
        return f"{self.reason}: {self.counted}   {self.hint}".rstrip()


def covered_by(item: pytest.Item, settings: Settings) -> list[str]:
    """The other inventories of the suite's folder that declare all that the item needs, by their file names."""
    others = inventories(item.config.rootpath / FOLDER)
    used = settings.inventory.path.resolve()
    return [name for name, other in others.items() if other.path.resolve() != used and may_run(item, other)]


def grouped(checks: Iterable[dict[str, Any]], settings: Settings, root: Path) -> list[Group]:
    """The checks of a record that are not covered, the largest group first."""
    lacking: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        if check["outcome"] == "not_covered":
            lacking.setdefault(check["reason"].partition(": ")[0], []).append(check)
    groups = [_group(reason, inside, settings, inventories(root / FOLDER)) for reason, inside in lacking.items()]
    return sorted(groups, key=lambda group: -len(group.ids))


def _group(reason: str, checks: list[dict[str, Any]], settings: Settings, others: dict[str, Inventory]) -> Group:
    """Suggests what is the easiest to run: on this machine, on few nodes and GPUs, and made for these checks."""
    covering: dict[str, set[str]] = {}
    for check in checks:
        for name in check["covered_by"] or ():
            covering.setdefault(name, set()).add(check["id"])

    def effort(name: str) -> tuple[int, int, int, int, int, str]:
        other, ids = others[name], covering[name]
        required = ids & required_ids(other.cluster.dynamo_requires, settings.known, complete=False)
        here = other.cluster.dynamo_embedded and _hardware(other) <= _hardware(settings.inventory)
        where, gpus = 0 if here else ELSEWHERE[other.cluster.dynamo_lab], sum(len(n.dynamo_gpus) for n in other.nodes)
        return where, len(other.nodes), gpus, -len(required), -len(ids), name

    best = min(covering.keys() & others.keys(), key=effort, default=None)
    asked = any(check["covered_by"] is not None for check in checks)
    return Group(reason, checks, best, len(covering.get(best or "", ())), asked)


def _hardware(inventory: Inventory) -> set[str]:
    return {name for node in inventory.nodes for name in node.dynamo_capabilities if name in NODE_CAPABILITIES}


@functools.cache
def inventories(folder: Path) -> dict[str, Inventory]:
    """By file name, those of deployments that the suite starts itself. One with a mistake is left out."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        if path.stem.endswith(SITE_THRESHOLDS):
            continue
        try:
            inventory = load(path)
        except InventoryError:
            continue
        if inventory.cluster.dynamo_managed:
            found[path.name] = inventory
    return found


def counted(checks: Sequence[dict[str, Any]]) -> str:
    """As in "3 checks (5 cases) in modules 09 10"."""
    ids, modules = {check["id"] for check in checks}, sorted({check["id"][1:3] for check in checks})
    cases = f" ({len(checks)} cases)" if len(checks) > len(ids) else ""
    return f"{_count(len(ids), 'check')}{cases} in module{'s' * (len(modules) > 1)} {' '.join(modules)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
