"""--dry-run: what the selected checks need, in lines that a shell takes or that are comments."""

import re
import subprocess
import sys

import pytest

from plugins.tests.conftest import INVENTORY
from plugins.tests.plant_run import ROOT

pytestmark = pytest.mark.slow

CHECKS = """
    from tests_by_module.module_00_fake.helping import beside

    class Run:
        def deployment(self): ...

    @pytest.fixture
    def run(): return Run()

    @pytest.fixture
    def deployment(run): return run.deployment()

    @pytest.mark.check("M00-01")
    def test_nothing(): pass

    @pytest.mark.check("M00-02")
    def test_declared(deployment): pass

    @pytest.mark.check("M00-03")
    def test_own(run):
        with beside(run): pass
"""
HELPING = """
    import contextlib

    @contextlib.contextmanager
    def beside(run):
        with run.own_deployment("beside"):
            yield
"""
ENDS_OF_TRANSFERS = """
    def end(): return Side()

    @pytest.mark.check("M11-01")
    def test_ends(): end()
"""
ENDS = "# These also start processes with a NIXL agent while they run: M11-01"
OWN = "# These also start a deployment of their own while they run: M00-03"


@pytest.fixture
def planned(suite):
    """Gives the lines of a dry run."""
    suite.module(0, CHECKS)
    suite.write("tests_by_module/module_00_fake/helping.py", HELPING)

    def planned(*args: str) -> list[str]:
        result = suite.run("--dry-run", *args)
        assert result.ret == 0 and not (suite.path / "reports").exists()
        return result.outlines

    return planned


@pytest.mark.parametrize(
    ("keyword", "declared", "own"), [("M00-01", False, False), ("M00-02", True, False), ("M00-03", False, True)]
)
def test_it_shows_what_the_selected_checks_bring_up(planned, keyword, declared, own):
    lines = planned("-k", keyword)
    assert lines[0] == "# 1 checks are selected, of module_00_fake"
    assert any("-m dynamo.frontend" in line for line in lines) == declared
    assert (OWN in lines) == own


def test_each_line_can_be_pasted_or_is_a_comment(planned):
    for line in [line for line in planned() if not line.startswith("#")]:
        subprocess.run(["bash", "-n", "-c", line], check=True)
        assert not re.search(r"RUN_ID|PORT\d|< parameters\.json", line), line


def test_only_processes_of_checks_are_started_where_a_deployment_runs_already(planned, suite):
    where = "dynamo_managed: false\n    dynamo_frontend_url: http://127.0.0.1:8000\n    dynamo_discovery: file"
    text = INVENTORY.replace("{requires}", "[M00-*]").replace("dynamo_embedded: true", where)
    site = suite.write("inventory/site.yaml", text)
    suite.module(11, ENDS_OF_TRANSFERS)
    lines = planned("--inventory", str(site))
    assert lines[1:] == ["# local", "# attached: no service is started", ENDS]


@pytest.mark.parametrize("option", ["--dry-run", "--list-plants"])
def test_a_reader_that_leaves_ends_it_quietly(option):
    command = f"{sys.executable} -m pytest -p no:cacheprovider {option} tests_by_module | true; echo ${{PIPESTATUS[0]}}"
    asked = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (asked.stdout, asked.stderr) == ("0\n", "")
