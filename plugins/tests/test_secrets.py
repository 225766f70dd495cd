"""Nothing that a run leaves behind or shows holds a secret, wherever pytest and its plugins take it from."""

import subprocess
import sys

from plugins.tests.conftest import ROOT

SECRET = "c0rrect-h0rse-battery"

TESTS = """
    import os, warnings
    SECRET = os.environ["SITE_API_KEY"]

    @pytest.mark.check("M00-01")
    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("case", ["one"])
    def test_red(record_property, evidence, case):
        print("printed", SECRET)
        warnings.warn("warned of " + SECRET)
        record_property("site", SECRET)
        record_property("SOME_TOKEN", "-".join(["short", "1"]))
        evidence.text("dump", "etcd://" + SECRET + "@host")
        assert not SECRET, "failed with " + SECRET
"""


def test_no_file_and_no_line_holds_it(suite, monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    monkeypatch.setenv("FAKE_TEAR_DOWN", f"left:{SECRET}")
    # what pytest-metadata takes from the environment of a GitLab runner, and shows in report.html
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("CI_PROJECT_URL", "https://gitlab-ci-token:abcd-1234-x@gitlab.example.com/a/b.git")
    suite.module(0, TESTS)
    result = suite.run("-v", "--metadata", "REGISTRY_PASSWORD", "short-3", "--metadata", "site", "Bearer abcdef-123456")
    assert result.ret == 1
    reports = suite.path / "reports"
    run = suite.latest.resolve()
    for words in ([run], [run, run], ["--reports", reports]):
        command = [sys.executable, "-m", "fixtures", "report", *map(str, words)]
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    files = [path for path in reports.rglob("*") if path.is_file()]
    made = {"run.json", "report.html", "junit.xml", "dump.txt", "history.sqlite3", "again.html", "index.html"}
    made.add(f"compared-with-{run.name}.html")
    assert made <= {path.name for path in files}
    left = {path.name: path.read_text(errors="replace") for path in files}
    left["the terminal"] = result.stdout.str() + result.stderr.str()
    for name, text in left.items():
        for secret in (SECRET, "abcd-1234-x", "short-1", "short-3", "abcdef-123456"):
            assert secret not in text, f"{secret} in {name}"
    assert "failed with [hidden]" in left["run.json"] and "gitlab-ci-token:[hidden]@gitlab" in left["report.html"]
    assert 'name="site" value="[hidden]"' in left["junit.xml"]
