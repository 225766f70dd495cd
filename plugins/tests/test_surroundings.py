"""Around the suite something is missing or another's: plugins of pytest, a checkout to write in, a clean protocol."""

import os
import subprocess
import sys

import pytest

GREEN = '@pytest.mark.check("M00-01")\ndef test_it(): pass\n'
# plugins of pytest and others that a user may switch off
OFF = "junitxml metadata html terminal capture cacheprovider logging xdist benchmark faulthandler warnings".split()


@pytest.fixture
def green(suite):
    suite.module(0, GREEN)
    return suite


@pytest.mark.parametrize("names", [*([name] for name in OFF), OFF], ids=[*OFF, "all"])
def test_without_a_plugin_the_verdict_is_the_same(green, names):
    result = green.pytester.runpytest_subprocess(*(word for name in names for word in ("-p", f"no:{name}")))
    assert result.ret == 0, str(result.stdout) + str(result.stderr)
    assert result.outlines[-1].startswith("ACCEPTED (profile fake): 1 passed")
    page = not {"html", "metadata"} & set(names)
    assert result.outlines[-2] == f"report: {green.latest.resolve() / ('report.html' if page else 'run.json')}"
    left = {path.name for path in green.latest.iterdir()}
    views = {"report.html": page, "junit.xml": "junitxml" not in names}
    always = {"run.json", "summary.md", "ctrf.json", "transcript.txt", "measurements.jsonl", "manifest.sha256"}
    assert left == always | {name for name, made in views.items() if made}
    if page:
        assert ("junit.xml" in (green.latest / "report.html").read_text()) == views["junit.xml"]


@pytest.mark.parametrize("args", [[], ["-p", "xdist", "-n", "2"]], ids=["alone", "xdist"])
def test_without_any_plugin_that_is_found_by_itself(green, monkeypatch, args):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = green.run(*args)
    assert result.ret == 0 and result.outlines[-1].startswith("ACCEPTED (profile fake): 1 passed")
    assert result.outlines[-2] == f"report: {green.latest.resolve() / 'run.json'}"


def test_a_usage_error_is_told_without_a_terminal(green):
    green.write("inventory/local.yaml", "no inventory")
    result = green.run("-p", "no:terminal")
    assert result.ret == 4 and any("local.yaml" in line for line in result.errlines)


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize("given", ["elsewhere", "{}/elsewhere"], ids=["relative", "absolute"])
def test_reports_go_where_they_are_asked_to(green, given, args):
    folder = green.path / "elsewhere"
    result = green.run("tests_by_module", "--reports", given.format(green.path), *args)
    assert result.ret == 0 and not (green.path / "reports").exists()
    assert (folder / "latest" / "run.json").is_file() and (folder / "latest" / "report.html").is_file()
    assert (folder / "latest").resolve().parent == folder


def read_only(suite, *args):
    """A run in a mount namespace in which the suite's folder is read-only, as another user's checkout is."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    command = [*unshare, "sh", "-c", mounts, str(suite.path), sys.executable, "-m", "pytest", "tests_by_module", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_checkout_that_is_read_only(green, tmp_path_factory, args):
    refused = read_only(green, *args)
    assert refused.returncode == 4 and "INTERNALERROR" not in refused.stdout
    told = f"ERROR: cannot write reports to {green.path}/reports: Read-only file system; choose a folder with --reports"
    assert told in refused.stderr.splitlines()
    folder = tmp_path_factory.mktemp("reports")
    ended = read_only(green, "--reports", str(folder), *args)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("ACCEPTED (profile fake): 1 passed")
    assert (folder / "latest" / "report.html").is_file()


# stands in for pytest-rerunfailures and its like
RUNS_AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_addoption(parser):
    parser.addoption("--reruns", type=int)

def pytest_runtest_protocol(item, nextitem):
    for _ in range(3):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        runtestprotocol(item, nextitem=nextitem, log=True)
    return True
"""


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_check_that_runs_again_counts_once_and_is_not_accepted(green, args):
    green.write("runs_again.py", RUNS_AGAIN)
    result = green.run("-p", "runs_again", *args)
    assert result.ret == 1
    assert result.outlines[-1].startswith("REJECTED (profile fake): 1 passed, 0 failed")
    told = "M00-01 ran more than once, by a plugin or an option of pytest: its first result counts"
    assert green.record()["problems"] == [told]
    refused = green.run("-p", "runs_again", "--reruns", "2", *args)
    assert refused.ret == 4 and any(
        line.startswith("ERROR: --reruns runs failed checks again") for line in refused.errlines
    )
