"""--dry-run: the commands for each node that the selected checks need, as one could paste them. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from plugins.marks import id_of, module_of
from plugins.names_used import names_used
from plugins.output import clean, print_lines
from plugins.session import INVENTORY

if TYPE_CHECKING:
    from fixtures.cluster.inventory.model import Inventory

# methods and functions of the library, and what they bring up while a check runs
BRINGS = {
    "own_deployment": "start a deployment of their own",
    "joined_worker": "start one worker more",
    "replicas": "start servers of vLLM without Dynamo",
    "Side": "start processes with a NIXL agent",
}
WHERE_ATTACHED = ("Side",)  # these are started beside a deployment that runs already
STARTS = "# A run starts the same with names of its own on free ports. Start each server when the one above answers."
DECLARED = {"deployment", "picture"}  # of the Run: they bring up what the inventory declares


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Collect as --collect-only does, without a word of pytest's own between the commands."""
    if config.getoption("dry_run"):
        config.option.collectonly = True
        config.pluginmanager.set_blocked("terminalreporter")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and (lines := report.longreprtext.strip().splitlines()):
        print_lines([clean(f"# could not be collected: {report.nodeid}: {lines[-1]}")])


def pytest_collection_finish(session: pytest.Session) -> None:
    inventory = session.config.stash.get(INVENTORY, None)
    if session.config.getoption("dry_run") and inventory is not None:
        print_lines(clean(line) for line in _lines(session.items, inventory))


def _lines(items: list[pytest.Item], inventory: Inventory) -> Iterator[str]:
    from fixtures.product.deployments import plan

    checks = [item for item in items if module_of(item) is not None]
    uses = {id_of(item): names_used(item) for item in checks}
    modules = sorted({module_of(item) or "" for item in checks})
    yield f"# {len(uses)} checks are selected, of {', '.join(modules) or 'no module'}"
    managed = inventory.cluster.dynamo_managed
    if managed:
        yield STARTS
    declared = any(names & DECLARED for names in uses.values())
    if uses and not declared:
        yield "# None of these checks needs the deployment that the inventory declares."
    last = None
    for node, line in plan(inventory, deployment=declared) if uses else ():
        if node != last:
            yield f"# {node}"
        last = node
        yield line
    for name, does in BRINGS.items():
        if not managed and name not in WHERE_ATTACHED:
            continue
        if ids := sorted(check_id for check_id, names in uses.items() if name in names):
            yield f"# These also {does} while they run: {', '.join(ids)}"
