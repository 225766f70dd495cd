"""An inventory of Slurm's nodes: what is wrong with the allocation is one message, and no node is touched."""

from __future__ import annotations

import re

import pytest

from fixtures.tests.slurm import Slurm, enter
from plugins.tests.conftest import INVENTORY, Suite
from plugins.tests.test_usage import refused

pytestmark = pytest.mark.slow

# a stand-in for time: what earlier runs took is written, not waited for
SLOW = re.compile(r'"duration_s": [\d.]+')


@pytest.fixture
def on_slurm(suite: Suite) -> Suite:
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    text = INVENTORY.replace("{requires}", "[M00-*]").replace(
        "local:\n      ansible_connection: local", "spark1:\n      ansible_connection: slurm"
    )
    suite.write("inventory/slurm.yaml", text)
    return suite


def test_no_allocation(on_slurm: Suite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    said = refused(on_slurm, "--inventory", "inventory/slurm.yaml")
    assert "inventory/slurm.yaml: this process is not in a Slurm allocation (SLURM_JOB_ID is not set)" in said
    assert on_slurm.run("--inventory", "inventory/slurm.yaml", "--collect-only").ret == 0


def test_node_that_is_not_in_the_allocation_keep_and_too_little_time(
    on_slurm: Suite, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
):
    with slurm.allocated("--nodelist=spark2", "--time=1") as job:
        enter(slurm, job, monkeypatch)
        said = refused(on_slurm, "--inventory", "inventory/slurm.yaml", "--keep")
        assert f"spark1 is not in the allocation of job {job}, which has spark2" in said
        assert "--keep: what a run leaves on nodes of a Slurm allocation ends with it" in said
        assert re.search(rf"the Slurm job {job} ends in 0:\d\d min, and a run .* takes 1:00 min: ask for more", said)


def test_time_that_is_over_at_sigterm_does_not_count(on_slurm: Suite, slurm: Slurm, monkeypatch: pytest.MonkeyPatch):
    with slurm.allocated("--nodelist=spark1", "--time=3") as job:
        enter(slurm, job, monkeypatch)
        monkeypatch.setenv("DYNAMO_ACCEPTANCE_SIGTERM_S", "180")
        said = refused(on_slurm, "--inventory", "inventory/slurm.yaml")
        assert f"the Slurm job {job} ends in 0:00 min (SIGTERM, 3:00 min before its time limit), and a run" in said
        monkeypatch.setenv("DYNAMO_ACCEPTANCE_SIGTERM_S", "3m")
        said = refused(on_slurm, "--inventory", "inventory/slurm.yaml")
        assert "DYNAMO_ACCEPTANCE_SIGTERM_S is '3m': set it to the seconds of the script's #SBATCH --signal" in said


@pytest.mark.parametrize("runners", [(), ("-n", "1")])
def test_time_limit_that_is_shorter_than_earlier_runs(
    on_slurm: Suite, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, runners: tuple[str, ...]
):
    args = ("--inventory", "inventory/slurm.yaml", *runners)
    with slurm.allocated("--nodelist=spark1", "--time=3") as job:
        enter(slurm, job, monkeypatch)
        assert on_slurm.run(*args).ret == 0
        record = on_slurm.latest.resolve() / "run.json"
        record.write_text(SLOW.sub('"duration_s": 600', record.read_text(), count=1))
        result = on_slurm.run(*args)
        said = str(result.stdout) + str(result.stderr)
        assert result.ret == 4, said
        assert re.search(rf"the Slurm job {job} ends in 2:\d\d min, and these checks took 10:00 min", said)
        assert "INTERNALERROR" not in said and "Traceback" not in said
