"""run.json says which suite wrote it and in which shape, and where its time went."""

import json
import tomllib
from pathlib import Path

import pytest

from fixtures.times.path import least, wall
from fixtures.times.record import read
from plugins.record import SCHEMA, schema_mismatch

ROOT = Path(__file__).parents[2]


def test_a_record_names_the_suites_version_and_its_own_shape(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    suite.run()
    record = suite.record()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert record["suite"]["version"] == project["version"]
    assert (
        record["schema_version"]
        == json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]["schema_version"]["const"]
    )
    assert project["version"] in (suite.latest / "report.html").read_text(encoding="utf-8")
    assert schema_mismatch(record) is None
    assert "schema_version" in schema_mismatch({**record, "schema_version": record["schema_version"] + 1})
    assert "suite" in schema_mismatch({**record, "suite": {"git": None}})


WAITS = """
    from fixtures.basics.deadline import pause

    @pytest.fixture
    def late():
        yield pause(0.3, "the set-up")

    @pytest.mark.check("MNUMBER-01")
    @pytest.mark.parametrize("n", range(2))
    def test_waits(late, n):
        pause(0.4, "the lease to age")
        pause(0.05, "what is too short to be recorded")
"""


@pytest.mark.parametrize(("options", "runners"), [((), ["main"]), (("-n", "2"), ["gw0", "gw1"])])
def test_a_record_says_where_the_time_of_each_runner_went(suite, options, runners):
    for number in (0, 1):
        suite.module(number, WAITS.replace("NUMBER", f"{number:02}"))
    suite.run(*options)
    assert schema_mismatch(suite.record()) is None
    times = read(suite.latest)
    assert times.runners == runners and len(times.begun) == 4
    for check in times.begun:
        assert {each.what: each.n for each in check.waits} == {"the set-up": 1, "the lease to age": 1}
        assert 0.7 <= check.waited_s <= check.phases.all_s + 0.01
        assert check.phases.setup_s >= 0.3 and check.phases.call_s >= 0.45
        start_s, end_s = check.span
        assert start_s >= 0 and end_s <= times.duration_s
    for before, after in zip(times.begun, times.begun[1:], strict=False):
        assert before.runner != after.runner or before.span[1] <= after.span[0] + 0.01
    assert {each.kind for each in times.processor} == {"suite", "commands", "etcd"}
    assert {each.runner for each in times.deployments} == set(runners)
    assert 0.75 <= least(times).chain.all_s < times.duration_s and len(wall(times)) == len(runners)
