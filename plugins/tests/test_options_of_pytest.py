"""What pytest's own options, and plugins that are switched off, can do to a verdict: never a false ACCEPTED."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plugins
from plugins.options import NO_ASSERT, NO_SKIPPING, REFUSED

CHECK = """
    import pathlib

    @pytest.mark.check("M00-01")
    def test_it():
        pathlib.Path("called").touch()
"""
SHOWN = ["--help", "--markers", "--fixtures", "--fixtures-per-test", "--cache-show", "--collect-only", "--version"]
NOT_RUN = "it was not run to its end"


@pytest.fixture
def green(suite):
    suite.module(0, CHECK)
    return suite


def left(suite) -> list[str]:
    reports = suite.path / "reports"
    return sorted(os.listdir(reports)) if reports.exists() else []


def test_no_option_that_stops_before_the_call_accepts(green):
    """The options are pytest's own list, so that one which a new version brings is walked through as well."""
    command = [sys.executable, str(Path(__file__).with_name("option_walk.py"))]
    walked = subprocess.run(command, cwd=green.path, capture_output=True, text=True, timeout=600)
    seen = [json.loads(line.removeprefix("SEEN ")) for line in walked.stdout.splitlines() if line.startswith("SEEN ")]
    assert walked.returncode == 0 and len(seen) > 50, walked.stdout + walked.stderr
    assert seen[0]["called"] and seen[0]["status"] == 0 and seen[0]["moved"]
    stopped = [it for it in seen if not it["called"]]
    for it in stopped:
        judged = [outcome for run in it["outcomes"] for outcome in run]
        assert "ACCEPTED" not in it["output"], it
        # it leaves no record, or one that says of the check that it was not run
        assert (not judged and not it["moved"]) or (judged == ["error"] and it["status"] == 1), it
    names = {name for it in stopped for name in it["args"]}
    assert {"--setup-only", "--setup-plan", "--fixtures-per-test", "--markers", "--trace", "--looponfail"} <= names


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize("option", SHOWN)
def test_what_only_shows_leaves_no_run(green, option, args):
    if option != "--collect-only":  # which says whether the inventory and the plant are there
        green.write("inventory/local.yaml", "no inventory")
    assert green.pytester.runpytest_subprocess(option, *args).ret == 0
    assert left(green) == [] and not (green.path / "called").exists()


def test_a_process_that_ends_in_a_check_leaves_no_verdict(green):
    assert green.run().ret == 0 and green.record()["verdict"] == "ACCEPTED"
    green.module(0, CHECK.replace('pathlib.Path("called").touch()', "__import__('os')._exit(0)"))
    ended = green.pytester.runpytest_subprocess()
    assert ended.ret == 0 and not any("ACCEPTED" in line for line in ended.outlines)
    assert green.latest.is_dir() and not (green.latest / "run.json").exists()


@pytest.mark.parametrize("how", ["argument", "environment", "with -n"])
@pytest.mark.parametrize("option", ["--setup-only", "--setup-plan", "--looponfail"])
def test_what_cannot_lead_to_a_verdict_is_refused(green, monkeypatch, option, how):
    if how == "environment":
        monkeypatch.setenv("PYTEST_ADDOPTS", option)
    result = green.run(*{"argument": [option], "environment": [], "with -n": ["-n", "2", option]}[how])
    assert result.ret == 4 and left(green) == []
    assert any(f"ERROR: {why}" in result.errlines for why in REFUSED.values() if why.startswith(option))


BENCHMARKS = ["--benchmark-only", "--benchmark-autosave", "--benchmark-save=x", "--benchmark-compare"]


@pytest.mark.parametrize("option", [*BENCHMARKS, "--benchmark-json=x"])
def test_what_is_of_benchmarks_is_refused_in_one_line(green, option):
    result = green.run(option)
    name = option.partition("=")[0]
    assert result.ret == 4 and left(green) == []
    assert [line for line in result.errlines if line] == [
        f"ERROR: {name}: no check is a benchmark of pytest-benchmark; figures are in run.json"
    ]


def test_skipping_is_switched_off_with_what_needs_it(green):
    result = green.run("-p", "no:skipping")
    assert result.ret == 4 and [line for line in result.errlines if line] == [f"ERROR: {NO_SKIPPING}"]
    assert green.run("-p", "no:skipping", "-p", "no:benchmark").ret == 0


@pytest.mark.parametrize("how", ["-O", "PYTHONOPTIMIZE"])
def test_python_without_asserts_is_refused(green, how):
    flags = ["-O"] if how == "-O" else []
    env = os.environ | ({} if flags else {"PYTHONOPTIMIZE": "1"})
    command = [sys.executable, *flags, "-m", "pytest", "-W", "ignore:assertions not in test modules"]
    ended = subprocess.run(command, cwd=green.path, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4 and f"ERROR: {NO_ASSERT}" in ended.stderr, ended.stdout + ended.stderr
    assert left(green) == []


@pytest.mark.parametrize("name", plugins.ALL)
def test_no_part_of_the_suite_can_be_switched_off(green, name):
    result = green.run("-p", f"no:{name}")
    assert result.ret == 4 and left(green) == []
    assert any(line.startswith(f"ERROR: -p no:{name}: this plugin is a part of the suite") for line in result.errlines)


def test_another_root_leads_to_no_verdict(green):
    result = green.run("--rootdir=/", str(green.path / "tests_by_module"))
    assert result.ret == 4 and "/ is not the suite's root" in str(result.stdout) + str(result.stderr)


RED = '@pytest.mark.check("M00-0{number}")\ndef test_{number}(): assert 0\n'
SWALLOWED = {
    "the call of the function": "def pytest_pyfunc_call(pyfuncitem): return True",
    "the whole protocol": "def pytest_runtest_protocol(item): return True",
    "the call phase": "def pytest_runtest_call(item): item.runtest = lambda: None",
    "an exception": """
@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    try:
        return (yield)
    except AssertionError:
        return True
""",
    "a report": """
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome, report.longrepr = "passed", None
    return report
""",
}


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize("swallows", SWALLOWED.values(), ids=SWALLOWED)
def test_a_check_that_a_hook_swallows_has_not_passed(suite, swallows, args):
    suite.requires("M00-01")
    suite.module(0, "".join(RED.format(number=number) for number in (1, 2)))
    suite.write("swallows.py", "import pytest\n" + swallows)
    result = suite.run("-p", "swallows", *args)
    assert result.ret in (1, 6) and "ACCEPTED" not in str(result.stdout)
    assert all(outcome == "error" for outcome in suite.outcomes().values()), suite.outcomes()
    told = [check["reason"] for check in suite.record()["checks"]] + suite.record()["incomplete"]
    assert any(NOT_RUN in text or "selected, and never run: M00-01, M00-02" in text for text in told), told


def test_a_debugger_that_ends_has_not_run_the_check(green):
    """pytest's --trace at the end of its input: the check's function never begins, and its call passes."""
    assert green.run("--trace").ret == 1
    assert green.outcomes() == {"M00-01": "error"}
    assert NOT_RUN in green.record()["checks"][0]["reason"]
