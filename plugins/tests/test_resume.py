"""--resume RUN: what was judged is not run again, what was not is, and the record says so."""

from __future__ import annotations

import json

import pytest

STOPS = """
    import os, pathlib, signal, time

    @pytest.mark.check("M00-01")
    def test_red(): assert 0

    @pytest.mark.check("M00-02")
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_stops(n):
        if str(n) == pathlib.Path("stops-at").read_text():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    @pytest.mark.check("M00-03")
    def test_last(): pass
"""


@pytest.fixture
def stopped(suite):
    """A run that was interrupted in the second of three cases, and what is left of it."""
    suite.module(0, STOPS)
    (suite.path / "stops-at").write_text("2")
    assert suite.run().ret == 2
    return suite


def labels(record):
    return [(check["id"], check["case"], check["outcome"]) for check in record["checks"]]


@pytest.mark.parametrize("args", [(), ("-n", "2")])
def test_what_was_not_judged_is_run(stopped, args):
    first = stopped.record()
    assert labels(first) == [("M00-01", "", "failed"), ("M00-02", "1", "passed"), ("M00-02", "2", "error")]
    assert first["resumes"] is None
    (stopped.path / "stops-at").write_text("3")
    result = stopped.run("--resume", first["run_id"])
    line = f"resumes run {first['run_id']}, which judged 2 checks: 1 failed, 1 passed"
    assert result.outlines.count(line) == 1
    second = stopped.record()
    assert labels(second) == [("M00-02", "2", "passed"), ("M00-02", "3", "error")]
    judged = {"run_id": first["run_id"], "judged": ["M00-01", "M00-02[1]"], "outcomes": {"failed": 1, "passed": 1}}
    assert second["resumes"] == judged
    folder = stopped.path / "reports" / second["run_id"]
    assert (
        f"Resumes run {first['run_id']}, which judged 2 checks: 1 failed, 1 passed."
        in (folder / "summary.md").read_text()
    )
    (stopped.path / "stops-at").write_text("0")
    result = stopped.run("--resume", str(folder), *args)  # goes on with one that went on
    assert result.ret == 0 and "ACCEPTED for the part selected" in result.outlines[-1]
    third = stopped.record()
    assert labels(third) == [("M00-02", "3", "passed"), ("M00-03", "", "passed")]
    assert third["resumes"]["outcomes"] == {"failed": 1, "passed": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["inventory"].update(fingerprint="f00"), "its inventory differs: f00 there, "),
        (lambda data: data["suite"].update(git="abc"), "its suite has another commit: abc there, "),
        (lambda data: data["suite"].update(version="0.0.1"), "its suite has another version: 0.0.1 there, "),
        (lambda data: data.pop("checks"), "is not a record of this suite: $: 'checks' is a required property"),
    ],
)
def test_what_cannot_go_on_is_refused(stopped, change, said):
    path = stopped.path / "reports" / stopped.record()["run_id"] / "run.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    before = sorted(path.parent.parent.iterdir())
    result = stopped.run("--resume", path.parent.name)
    assert result.ret == 4 and said in str(result.stderr)
    assert sorted(path.parent.parent.iterdir()) == before


def test_a_run_that_is_not_there_is_refused(suite):
    suite.module(0, STOPS)
    result = suite.run("--resume", "20261129T000000Z-0000")
    assert result.ret == 4 and "there is no such folder, and no such run in" in str(result.stderr)
