"""Markers: registered with their meaning, checked at collection, some derived from `needs`."""

from __future__ import annotations

import re
from typing import Any

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from fixtures.basics.check_source import CHECK_ID, MODULE, SITE_ID, TESTS
from fixtures.basics.known_failures import load_known_failures
from fixtures.cluster.inventory.model import Inventory, Role
from fixtures.cluster.inventory.requires import CAPABILITIES, LEFT_OUT
from fixtures.cluster.labs.plan import holds_dynamo
from fixtures.cluster.probes.capabilities import ENGINES, CapabilityTable
from plugins.names_used import names_used
from plugins.options import only_shows
from plugins.plants import modules_of
from plugins.session import PLANT, settings_of
from plugins.site_checks import site_checks

# a marker, what it means, and an example
MARKERS = {
    "check(id, by_hand='', causes=(), judged='', evidence='')": (
        "the check that this test is; fixtures/basics/check.py says what each argument means",
        '@check("M04-05", judged="…")',
    ),
    "needs(*capabilities, role=None, why='')": (
        f"what must be declared, else it is not covered: {', '.join(CAPABILITIES)}; asked of the nodes that have the "
        f"role, or of all. With managed, `why` says what keeps it from a deployment that runs already: "
        f"{', '.join(LEFT_OUT)}",
        '@pytest.mark.needs("gpu", role="worker")',
    ),
    "known_defect(issue, versions, shows, reason, engine=None, sometimes=False)": (
        "these versions (PEP 440) of ai-dynamo, with this engine or any, are known to fail the check with a text in "
        "which the regular expression `shows` is found, which does not reject; any other failure rejects, and so does "
        "a check that passes, unless the defect shows `sometimes`",
        '@pytest.mark.known_defect(issue="ai-dynamo/dynamo#1", versions="<1.7", shows="lost: [1-9]", reason="…")',
    ),
    "single_node": ("derived: does not need a second node", "-m single_node"),
    "multi_node": ("derived from needs('multi_node')", '-m "multi_node and nightly"'),
    "gpu": ("derived from needs('gpu')", '-m "not gpu"'),
    "rdma": ("derived from needs('rdma')", "-m rdma"),
    "real_engine": ("derived from needs('real_engine')", '-m "not real_engine"'),
    "smoke": ("the few checks that show whether a module works at all", "-m smoke"),
    "nightly": ("the long form of a check, for the night", '-m "not nightly"'),
    "endurance": (
        "loads the deployment for as long as --endurance says, or judges what nodes say meanwhile",
        "-m endurance --endurance 3600",
    ),
    "at_end": ("after all other checks: it judges what they all have seen", '-m "not at_end"'),
    "long_wait(together=False)": (
        "waits long for a deployment of its own: with -n it goes to any runner, or `together` with those of its file",
        '-m "not long_wait"',
    ),
    "performance": ("measures speed: alone on its nodes", "-m performance -p no:xdist"),
    "destructive": ("breaks something on purpose: alone on its nodes", '-m "not destructive"'),
}
DEFECT = ("issue", "versions", "shows", "reason")
# steps of the Run that put Dynamo on the nodes
OF_DYNAMO = {"equipment", "deployment", "picture", "own_deployment"}
DERIVED = ("multi_node", "gpu", "rdma", "real_engine")


def pytest_configure(config: pytest.Config) -> None:
    for marker, (meaning, _) in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")


def module_of(item: pytest.Item) -> str | None:
    """The module package that the test lies in, None for a test outside tests_by_module."""
    parts = item.nodeid.split("/")
    return parts[1] if parts[0] == TESTS and len(parts) > 2 else None


def arguments(item: pytest.Item, name: str) -> dict[str, Any] | None:
    """The named arguments of the check or known_defect marker, positional ones by their place."""
    return next(iter(each_arguments(item, name)), None)


def each_arguments(item: pytest.Item, name: str) -> list[dict[str, Any]]:
    """Those of every marker of that name: a check may have several known defects."""
    names = {
        "check": ("id", "by_hand", "causes", "judged", "evidence"),
        "known_defect": (*DEFECT, "engine", "sometimes"),
    }[name]
    found = []
    for marker in item.iter_markers(name):
        given = dict(zip(names, marker.args, strict=False)) | dict(marker.kwargs)
        if len(marker.args) > len(names) or set(given) - set(names):
            raise ValueError(f"{name} takes {', '.join(names)}")
        found.append(given)
    return found


def id_of(item: pytest.Item) -> str:
    """The id of a check. Raises ValueError for a test without one, which collection refuses."""
    check = arguments(item, "check")
    if check is None:
        raise ValueError(f"{item.nodeid} is not a check")
    return str(check["id"])


def needs_of(item: pytest.Item) -> list[tuple[tuple[str, ...], Role | None]]:
    """Every `needs` marker of the item as (capabilities, role)."""
    return [(marker.args, marker.kwargs.get("role")) for marker in item.iter_markers("needs")]


def why_managed(item: pytest.Item) -> str:
    """What keeps the item from a deployment that runs already: a word of LEFT_OUT, "" where its markers name none."""
    reasons = (marker.kwargs.get("why", "") for marker in item.iter_markers("needs") if "managed" in marker.args)
    return str(next((reason for reason in reasons if reason), ""))


def may_run(item: pytest.Item, inventory: Inventory) -> bool:
    """Whether the inventory declares all that the item needs; no node is looked at."""
    if not holds_dynamo(inventory) and names_used(item) & OF_DYNAMO:
        return False
    table = CapabilityTable(inventory, {})
    names: dict[Role | None, list[str]] = {
        role: [node.name for node in inventory.with_role(role)] for _, role in needs_of(item) if role
    }
    return all(
        names.get(role) != [] and table.declared(capabilities, names.get(role)) for capabilities, role in needs_of(item)
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    settings = settings_of(config)
    catalogue = load_known_failures()
    owners: dict[str, str] = {}
    problems: list[str] = []
    for item in items:
        if module_of(item) is None:
            continue
        needed = {capability for capabilities, _ in needs_of(item) for capability in capabilities}
        for name in DERIVED:
            if name in needed:
                item.add_marker(name)
        if "multi_node" not in needed:
            item.add_marker("single_node")
        problems += [f"{item.nodeid}: {problem}" for problem in _problems(item, needed, owners, catalogue)]
    if problems:
        text = "\n".join(problems)
        items.clear()
        if hasattr(config, "workerinput"):  # a runner cannot end the session; the controller does
            config.workeroutput["usage_error"] = text  # type: ignore[attr-defined]
            return
        raise pytest.UsageError(text)
    if settings is None and not only_shows(config) and any(item.get_closest_marker("check") for item in items):
        raise pytest.UsageError(f"{config.rootpath} is not the suite's root: there would be no verdict on its checks")
    if (plant := config.stash.get(PLANT, None)) is not None:
        modules = modules_of(plant, config.rootpath, site_checks(config))
        inside = [item for item in items if module_of(item) in modules]
        config.hook.pytest_deselected(items=[item for item in items if item not in inside])
        items[:] = inside


def _problem_with_id(item: pytest.Item, check_id: object) -> str:
    """What is wrong with a check's id, "" where nothing is. A site's check has one that no module's check can have."""
    module = module_of(item) or ""
    if (site := site_checks(item.config)) and module == site.module:
        item.extra_keyword_matches.add(module)  # for -k, as pytest takes the folder itself for another root
        if SITE_ID.fullmatch(str(check_id)):
            return ""
        how = f"check id {check_id} cannot be a site's" if check_id else "no check id"
        return f'{how}; mark it with @check("SITE-01", judged="…"): capital letters, M not the first, and two digits'
    if not (parts := CHECK_ID.fullmatch(str(check_id))):
        return 'no check id; mark it with @check("M<module>-<number>", judged="…")'
    own = MODULE.fullmatch(module)
    return "" if own and parts[1] == own[1] else f"check id {check_id} is not of this module"


def _problems(item: pytest.Item, needed: set[str], owners: dict[str, str], catalogue: dict[int, Any]) -> list[str]:
    found = []
    try:
        check = arguments(item, "check")
        defects = each_arguments(item, "known_defect")
    except ValueError as error:
        return [str(error)]
    if (problem := _problem_with_id(item, check and check.get("id"))) or check is None:
        return [problem]
    item.extra_keyword_matches.add(check["id"])  # for -k
    function = item.nodeid.split("[")[0]
    if owners.setdefault(check["id"], function) != function:
        found.append(f"check id {check['id']} is taken by {owners[check['id']]}")
    if unknown := [str(number) for number in check.get("causes", ()) if number not in catalogue]:
        found.append(f"causes: {', '.join(unknown)} not in fixtures/basics/known_failures.yaml")
    if unknown := sorted(needed - set(CAPABILITIES)):
        found.append(f"needs: unknown capability {', '.join(unknown)}; known are {', '.join(CAPABILITIES)}")
    if (why := why_managed(item)) and why not in LEFT_OUT:
        found.append(f"needs: unknown why={why!r}; known are {', '.join(LEFT_OUT)}")
    if "managed" in getattr(item, "fixturenames", ()) and "managed" not in needed:
        found.append('takes the fixture managed: mark it with @pytest.mark.needs("managed", why="breaks")')
    for defect in defects:
        missing = [key for key in DEFECT if not isinstance(defect.get(key), str)]
        if missing:
            found.append(f"known_defect: {', '.join(missing)} is missing or no text")
        else:
            if (engine := defect.get("engine")) not in (None, *ENGINES):
                found.append(f"known_defect: unknown engine {engine!r}; known are {', '.join(ENGINES)}")
            try:
                SpecifierSet(defect["versions"])
            except InvalidSpecifier:
                found.append(
                    f"known_defect: versions {defect['versions']!r} is not a PEP 440 specifier, such as '<1.7'"
                )
            try:
                re.compile(defect["shows"])
            except re.error as error:
                found.append(f"known_defect: shows {defect['shows']!r} is not a regular expression: {error}")
    return found
