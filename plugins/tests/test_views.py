"""ctrf.json and manifest.sha256: what other tools read of a run."""

import json
import shutil
import subprocess

import pytest

TESTS = """
    @pytest.mark.check("M00-01")
    def test_green(evidence): "All is there."; evidence.text("a log", "line")

    @pytest.mark.check("M00-02")
    @pytest.mark.parametrize("node", ["a"])
    def test_red(node): "It answers."; assert not node, "no answer"

    @pytest.mark.check("M00-03")
    @pytest.mark.needs("real_engine")
    def test_tokens(): "Two runs give the same tokens."
"""


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_other_tools_read_a_run(suite):
    suite.module(0, TESTS)
    assert suite.run().ret == 1
    report = json.loads((suite.latest / "ctrf.json").read_text(encoding="utf-8"))
    assert (report["reportFormat"], report["results"]["extra"]["verdict"]) == ("CTRF", "REJECTED")
    summary = report["results"]["summary"]
    assert {name: summary[name] for name in ("tests", "passed", "failed", "skipped", "pending", "other")} == {
        **{"tests": 3, "passed": 1, "failed": 1, "skipped": 1},
        **{"pending": 0, "other": 0},
    }
    [red] = [test for test in report["results"]["tests"] if test["status"] == "failed"]
    assert (red["name"], red["message"], red["rawStatus"]) == ("M00-02[a] It answers.", "no answer", "failed")
    assert isinstance(red["duration"], int) and summary["start"] <= red["start"] <= summary["stop"]

    def checked() -> subprocess.CompletedProcess[str]:
        command = ["sha256sum", "--check", "--strict", "manifest.sha256"]
        return subprocess.run(command, cwd=suite.latest, capture_output=True, text=True)

    held = checked()
    assert held.returncode == 0, held.stdout + held.stderr
    names = {line.partition(": ")[0] for line in held.stdout.splitlines()}
    there = {path.relative_to(suite.latest).as_posix() for path in suite.latest.rglob("*") if path.is_file()}
    assert names == there - {"manifest.sha256"} and {"run.json", "report.html", "junit.xml", "ctrf.json"} <= names
    assert "manifest.sha256" in (suite.latest / "report.html").read_text(encoding="utf-8")
    (suite.latest / "run.json").write_text("{}")
    assert checked().returncode == 1
