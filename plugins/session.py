"""What the plugins share about a session and its checks, by typed keys of `config.stash` and `item.stash`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Finding
from fixtures.basics.measure import Measure
from fixtures.basics.measurement import Threshold

if TYPE_CHECKING:
    from fixtures.basics.check_source import KnownCheck, SiteChecks
    from fixtures.cluster.inventory.model import Inventory
    from fixtures.plants.plant import Plant
    from fixtures.run import Run


@dataclass(frozen=True)
class Settings:
    """What this session was asked to do. Exists only when tests_by_module is under test."""

    inventory: Inventory
    run_id: str
    report_dir: Path
    plant: type[Plant] | None
    keep: bool
    seed: int
    runner: str  # "main", or the xdist runner's name
    distributing: bool  # the xdist controller: it runs no test itself
    runners: int  # so many processes run checks at once
    known: tuple[KnownCheck, ...]  # every check of the suite, selected or not
    required: frozenset[str]  # the ids that the profile requires
    thresholds: dict[str, dict[str, Threshold]]  # check id -> measurement name -> threshold
    site_checks: SiteChecks | None = None

    @property
    def writes(self) -> bool:
        """True in the one process that writes the record."""
        return self.distributing or self.runner == "main"


class CheckState:
    """What one check has left behind while it runs."""

    def __init__(self, check_id: str, measure: Measure, evidence: Evidence) -> None:
        self.check_id = check_id
        self.measure = measure
        self.evidence = evidence
        self.began = 0.0  # its set-up, on the monotonic clock
        self.findings: tuple[Finding, ...] = ()  # of what it failed by
        self.found_causes: list[dict[str, Any]] | None = None  # not looked for
        self.missing: str | None = None  # why the declared capability is not there
        self.skip_reason: str | None = None  # set by the capability plugin, the only one that skips
        self.covered_by: list[str] | None = None  # of a skipped check: the inventories that declare what it needs
        self.returned = False  # the test's own function has come to its end
        self.outcome: str | None = None  # not judged: no report of its call has said that it passed
        self.reason = ""
        self.duration_s = 0.0
        self.phases: dict[str, float] = {}  # setup_s, call_s, teardown_s, with all that was waited for


@dataclass(frozen=True)
class SetUp:
    """Of a fixture: for which test, when on the monotonic clock, and how long it took."""

    nodeid: str
    began: float
    took_s: float


SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
RUN: pytest.StashKey[Run] = pytest.StashKey()
WAITED_S: pytest.StashKey[float] = pytest.StashKey()  # of the Run's waits, what no check's duration holds
CHECK: pytest.StashKey[CheckState] = pytest.StashKey()
INVENTORY: pytest.StashKey[Inventory] = pytest.StashKey()  # also where checks are only listed
PLANT: pytest.StashKey[type[Plant] | None] = pytest.StashKey()
SETUPS: pytest.StashKey[dict[int, SetUp]] = pytest.StashKey()  # by the identity of a fixture
TOLD: pytest.StashKey[set[str]] = pytest.StashKey()  # ids of checks that will tell all of their bring-up's failure
SAID_BY: pytest.StashKey[dict[tuple[str, str], str]] = pytest.StashKey()  # who says it, by that check and the reason


def settings_of(config: pytest.Config) -> Settings | None:
    """The session's settings, or None when tests_by_module is not under test."""
    return config.stash.get(SETTINGS, None)
