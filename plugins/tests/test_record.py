"""run.json says which suite wrote it and in which shape."""

import json
import tomllib
from pathlib import Path

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
