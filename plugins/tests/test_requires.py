"""What a profile requires can be covered by what its inventory declares: else no run of it is ever ACCEPTED."""

import json
from pathlib import Path

import pytest

from fixtures.basics.check_source import read_checks
from fixtures.cluster.inventory import Inventory, load
from fixtures.cluster.probes.capabilities import CapabilityTable
from fixtures.cluster.probes.discover import Found, draft, parse, spec_of
from fixtures.tests.module_source import checks_of
from fixtures.tests.test_inventory_discover import MADE_UP_LAPTOP, MADE_UP_SPARK
from plugins.checks import required_ids
from plugins.tests.children import ROOT

SHIPPED = sorted(path.name for path in (ROOT / "inventory").glob("*.yaml") if ".thresholds." not in path.name)


class AllThere(CapabilityTable):
    """Everything that is declared is there: what is left are needs that nobody declares."""

    def _found(self, need, spec):
        return True, "declared"


def required(inventory: Inventory) -> set[str]:
    known, complete = read_checks(ROOT)
    return set(required_ids(inventory.cluster.dynamo_requires, known, complete))


def not_declared(inventory: Inventory) -> set[str]:
    table = AllThere(inventory, {})
    return {check.id for check in checks_of(ROOT) if table.look(check.needs).state == "not_declared"}


@pytest.mark.parametrize("name", SHIPPED)
def test_profile_of_a_shipped_inventory_can_be_covered(name):
    inventory = load(ROOT / "inventory" / name)
    assert sorted(required(inventory) & not_declared(inventory)) == []


def host(nth: int, raw: dict, *, slow: bool = False, **changes: object) -> Found:
    fast = f"169.254.1.{nth}" if slow else f"192.168.100.{nth}"
    addresses = {"enP7s7": f"192.168.1.{nth}", "enp1s0f0np0": fast}
    return parse(json.dumps(raw | {"hostname": f"h{nth}", "addresses": addresses} | changes))


TWO_GPUS = "".join(f"GPU {n}: NVIDIA H200 (UUID: GPU-{n})\n" for n in range(2))
CLUSTERS = {
    "one mocker": [host(1, MADE_UP_LAPTOP)],
    "two mockers": [host(1, MADE_UP_LAPTOP), host(2, MADE_UP_LAPTOP)],
    "one of two has a GPU": [host(1, MADE_UP_SPARK), host(2, MADE_UP_LAPTOP)],
    "a GPU": [host(1, MADE_UP_SPARK, rdma=[])],
    "a Spark": [host(1, MADE_UP_SPARK)],
    "two GPUs": [host(1, MADE_UP_SPARK, gpus=TWO_GPUS, rdma=[])],
    "two Sparks": [host(1, MADE_UP_SPARK), host(2, MADE_UP_SPARK)],
    "two Sparks without addresses": [host(1, MADE_UP_SPARK, slow=True), host(2, MADE_UP_SPARK, slow=True)],
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_profile_of_a_draft_is_all_that_can_be_covered(name: str, tmp_path: Path):
    path = tmp_path / "drafted.yaml"
    path.write_text(draft([(spec_of(found.hostname), found) for found in CLUSTERS[name]]).text)
    inventory = load(path)
    everything = {check.id for check in checks_of(ROOT)}
    assert required(inventory) == everything - not_declared(inventory)
