"""The groups of what is not covered, on made-up records and inventories."""

from types import SimpleNamespace

import pytest

from fixtures.cluster.inventory import load
from plugins.not_covered import grouped, inventories
from plugins.tests.conftest import INVENTORY, ROOT


@pytest.fixture
def folder(tmp_path):
    """Inventories that differ in what they declare; `settings` are those of a run on local.yaml."""
    for path, text in {
        "runtimes/fake.yaml": "engine: mocker\npackages: {ai-dynamo: 1.6.1}\n",
        "models/tiny.yaml": "recipe: tiny\nserved_name: tiny\n",
        "local.thresholds.yaml": "M00-01: {}\n",
        "mistaken.yaml": "all: {hosts: [}\n",
    }.items():
        (tmp_path / "inventory" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "inventory" / path).write_text(text, encoding="utf-8")

    def write(name, capabilities="", requires="[M00-01]", embedded="true"):
        text = INVENTORY.replace("{requires}", requires).replace("embedded: true", f"embedded: {embedded}")
        path = tmp_path / "inventory" / name
        path.write_text(text + f"      dynamo_capabilities: [{capabilities}]\n", encoding="utf-8")
        return path

    write("local.yaml")
    return write


@pytest.fixture
def groups(folder, tmp_path):
    def groups(*checks):
        known = [SimpleNamespace(id=check["id"], needs=()) for check in checks]
        settings = SimpleNamespace(inventory=load(tmp_path / "inventory" / "local.yaml"), known=known)
        inventories.cache_clear()
        return grouped(checks, settings, tmp_path)

    return groups


def lacking(check_id, *covered_by, reason="nixl is not declared: local", case="", outcome="not_covered"):
    return {"id": check_id, "case": case, "outcome": outcome, "reason": reason, "covered_by": list(covered_by)}


def test_a_group_counts_checks_cases_and_modules(folder, groups):
    folder("engine.yaml", "real_engine")
    [large, small] = groups(
        lacking("M01-01", reason="gpu is not declared: none of the nodes (a) has it"),
        lacking("M09-01", "engine.yaml", case="long"),
        lacking("M09-01", "engine.yaml", case="short", reason="nixl is not declared: for another node"),
        lacking("M10-02"),
        lacking("M10-03", outcome="passed"),
    )
    assert large.line == (
        "nixl is not declared: 2 checks (3 cases) in modules 09 10   try --inventory inventory/engine.yaml (covers 1)"
    )
    assert small.line == "gpu is not declared: 1 check in module 01   no inventory in inventory/ covers it"


def test_what_the_deployment_does_not_offer_is_left_to_the_reader(groups):
    [group] = groups(lacking("M04-01", reason="etcd tells no port") | {"covered_by": None})
    assert group.line == "etcd tells no port: 1 check in module 04"


def test_the_inventory_that_takes_the_least_effort_is_suggested(folder, groups):
    both = [lacking("M11-01", "a.yaml", "b.yaml"), lacking("M11-02", "a.yaml", "b.yaml")]

    def suggested():
        [group] = groups(*both)
        return group.inventory

    folder("a.yaml")
    folder("b.yaml")
    assert suggested() == "a.yaml"
    folder("b.yaml", requires="[M11-*]")  # made for these checks
    assert suggested() == "b.yaml"
    folder("b.yaml", requires="[M11-*]", capabilities="gpu")  # hardware that the run has not declared
    assert suggested() == "a.yaml"
    folder("a.yaml", embedded="false")  # another site's nodes
    folder("b.yaml")
    assert suggested() == "b.yaml"


def test_one_gpu_comes_before_several(folder, groups):
    folder("few.yaml", "gpu")
    path = folder("all.yaml", "gpu", requires="[M11-*]")
    path.write_text(path.read_text() + "      dynamo_gpus: [0, 1]\n", encoding="utf-8")
    [group] = groups(lacking("M11-01", "all.yaml", "few.yaml"))
    assert group.inventory == "few.yaml"


def test_only_inventories_that_can_be_run_are_offered(folder, tmp_path):
    inventories.cache_clear()
    assert list(inventories(tmp_path / "inventory")) == ["local.yaml"]


def test_a_lab_on_this_machine_comes_before_nodes_elsewhere(folder, groups):
    folder("a.yaml", "gpu", embedded="false")
    path = folder("lab.yaml", "gpu", embedded="false")
    text = path.read_text().replace("  vars:\n", "  vars:\n    dynamo_lab: namespaces\n")
    text = text.replace("ansible_connection: local", "dynamo_management_address: 198.19.0.11")
    path.write_text(text.replace("127.0.0.1", "198.18.0.11"), encoding="utf-8")
    [group] = groups(lacking("M11-01", "a.yaml", "lab.yaml"))
    assert group.inventory == "lab.yaml"


def test_a_lab_on_emulated_processors_comes_after_others():
    settings = SimpleNamespace(inventory=load(ROOT / "inventory" / "local.yaml"), known=[])
    inventories.cache_clear()
    [group] = grouped([lacking("M08-01", "lab.yaml", "rdma-lab-vllm.yaml")], settings, ROOT)
    assert group.inventory == "lab.yaml"
