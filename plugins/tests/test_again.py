"""`python -m fixtures report`: an old record judged again, two runs side by side, and the index of all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.basics.measurement import Threshold
from fixtures.tests.made_up_run import made_up_run
from fixtures.times.record import RecordError
from plugins.again import judged_again, settings_for
from plugins.ctrf import render

ROOT = Path(__file__).parents[2]
MEASURES = """
    from fixtures.basics.measure import Measure

    @pytest.mark.check("M00-01")
    def test_speed(measure: Measure, evidence):
        "Requests are served in time."
        measure("latency_ms", 80, repeats=[79, 80, 81])
        evidence.text("a log <b>", "line")

    @pytest.mark.check("M00-02")
    def test_red():
        "It <i>answers</i>."
        assert False, "no answer <script>alert(1)</script>"
"""
BOUNDS = "M00-01:\n  latency_ms: {max: 100, unit: ms, better: lower, source: made up}\n"


@pytest.fixture
def twice(suite):
    """Two runs of a child suite: their folders."""
    suite.module(0, MEASURES, BOUNDS)
    folders = []
    for _ in range(2):
        assert suite.run().ret == 1
        folders.append(suite.latest.resolve())
    suite.folders = folders
    return suite


def asked(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fixtures", "report", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_old_records_are_drawn_and_compared(twice):
    before, after = twice.folders
    newer = ("comparison", "resumes")
    of_an_older_suite = {key: value for key, value in twice.record().items() if key not in newer}
    (after / "run.json").write_text(json.dumps(of_an_older_suite))
    record = (after / "run.json").read_bytes()
    done = asked(after)
    assert done.returncode == 1, done.stdout + done.stderr
    # the bounds of today are this suite's, which has none for what the child's check measures
    assert done.stdout.splitlines()[-1].startswith("REJECTED (profile fake): 1 passed, 1 failed")
    page = (after / "again.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and 'href="evidence/M00-01/' in page
    assert "<script>alert" not in page and "It &lt;i&gt;answers&lt;/i&gt;." in page
    assert (after / "run.json").read_bytes() == record

    done = asked(before, after / "run.json")
    assert done.returncode == 0, done.stderr
    page = (after / f"compared-with-{before.name}.html").read_text(encoding="utf-8")
    assert "1 metrics compared with" in page and "change of 1 metrics since the reference" in page
    assert "All checks ended as they did before." in page

    done = asked("--reports", after.parent)
    assert done.returncode == 0, done.stderr
    page = (after.parent / "index.html").read_text(encoding="utf-8")
    assert page.count("/report.html") == 2 and "M00-01 latency_ms, ms (lower is better)" in page
    assert '<th scope="col">M00-01 latency_ms, ms</th>' in page and page.count("<td>80</td>") == 2

    broken = after / "run.json"
    broken.write_text(json.dumps(json.loads(record) | {"verdict": "FINE"}))
    done = asked(after)
    assert done.returncode == 4 and done.stderr.count("\n") == 1
    assert "is not a record of this suite, or an older suite wrote it: $.verdict" in done.stderr
    assert asked(after, after, after).returncode == 4 and asked(after / "nowhere").returncode == 4


def test_a_record_whose_inventory_is_gone_is_refused_with_its_name(tmp_path):
    data = made_up_run(tmp_path / "20260101T000000Z-0001", modules=1)
    data["inventory"]["path"] = str(tmp_path / "gone.yaml")
    with pytest.raises(RecordError, match=r"run 20260101T000000Z-0001 cannot be judged again: .*gone\.yaml"):
        settings_for(data, tmp_path, ROOT)


def bound(**limits: float) -> dict[str, dict[str, Threshold]]:
    return {"M00-01": {"latency_ms": Threshold(unit="ms", source="made up", **limits)}}


def test_judged_again(twice):
    then = twice.record()
    data, verdict, changes = judged_again(then, bound(max=100))
    assert changes == [] and verdict.word == "REJECTED"
    assert [check["outcome"] for check in data["checks"]] == [check["outcome"] for check in then["checks"]]
    data, verdict, changes = judged_again(then, bound(max=70))
    [change] = changes
    assert change.startswith("M00-01 passed then, failed now: latency_ms = 80 ms (n=1), expected ≤ 70 ms")
    assert data["checks"][0]["outcome"] == "failed" and then["checks"][0]["outcome"] == "passed"
    again, verdict, changes = judged_again(data, bound(max=90))
    assert changes == ["M00-01 failed then, passed now"] and again["checks"][0]["reason"] == ""
    assert verdict.line.startswith("REJECTED (profile fake): 1 passed, 1 failed")
    green = then | {"checks": then["checks"][:1], "verdict": "ACCEPTED"}
    _, verdict, changes = judged_again(green, bound(max=70))
    assert (verdict.word, changes[0]) == ("REJECTED", "ACCEPTED then, REJECTED now")
    assert json.loads(render(data))["results"]["summary"]["failed"] == 2
