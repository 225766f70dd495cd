"""A check that takes its runner down under xdist: told once, with the cause, and the session goes on to its end."""

import re
from types import SimpleNamespace

import pytest

from plugins.lifecycle import collect_records
from plugins.tests.conftest import CONFTEST

DIES = """
    import ctypes, os, signal

    def exits(): os._exit(3)
    def is_killed(): os.kill(os.getpid(), signal.SIGKILL)
    def breaks_its_memory(): ctypes.string_at(0)
    def loses_its_connection(): os.closerange(3, 256); signal.pause()
    def leaves_a_child_with_its_pipes():
        if os.fork() == 0:
            os.setsid()
            signal.alarm(20)
            signal.pause()
        os._exit(3)
"""

MODULE = """
    @pytest.fixture(scope="package", autouse=True)
    def deployment():
        with open("brought-up", "a") as file:
            print(os.environ["PYTEST_XDIST_WORKER"], file=file)
        yield

    @pytest.fixture
    def before(n):
        if "PLACE" == "setup" and n == 1: WAY()

    @pytest.fixture
    def after(n):
        yield
        if "PLACE" == "teardown" and n == 1: WAY()

    @pytest.mark.check("MNUMBER-01")
    def test_first(): pass

    @pytest.mark.check("MNUMBER-02")
    @pytest.mark.parametrize("n", [1, 2])
    def test_dies(before, after, n):
        with open("attempts", "a") as file:
            print(n, file=file)
        if "PLACE" == "call" and n == 1: WAY()

    @pytest.mark.check("MNUMBER-03")
    def test_third(): pass
"""

GREEN = """
    @pytest.mark.check("M01-01")
    @pytest.mark.parametrize("n", range(4))
    def test_green(n): pass
"""


def dying(way, place="call", number=0):
    return DIES + MODULE.replace("WAY", way).replace("PLACE", place).replace("NUMBER", f"{number:02}")


def errors_of(suite):
    return {c["id"] + c["case"]: c["reason"] for c in suite.record()["checks"] if c["outcome"] == "error"}


def rejected(suite, *args):
    """The result of a run that ends by itself, REJECTED; each check in its record once."""
    result = suite.run(*args)
    text = result.stdout.str()
    assert result.ret == 1 and "INTERNALERROR" not in text, text
    assert result.outlines[-1].startswith("REJECTED"), text
    told = [check["id"] + check["case"] for check in suite.record()["checks"]]
    assert len(told) == len(set(told)), told
    return result


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("exits", "exit status 3"),
        ("is_killed", "killed by signal 9 (SIGKILL)"),
        ("breaks_its_memory", "killed by signal 11 (SIGSEGV)"),
        ("loses_its_connection", "its connection to pytest was lost"),
        ("leaves_a_child_with_its_pipes", "exit status 3"),
    ],
)
def test_it_is_told_once_with_the_cause_and_the_others_go_on(suite, way, cause):
    suite.module(0, dying(way))
    suite.module(1, GREEN)
    result = rejected(suite, "-n", "2")
    assert errors_of(suite) == {"M00-021": f"the runner ended while this check ran (call): {cause}"}
    assert suite.outcomes() == {
        **{"M00-01": "passed", "M00-021": "error", "M00-022": "passed", "M00-03": "passed"},
        **{f"M01-01{n}": "passed" for n in range(4)},
    }
    assert (suite.path / "attempts").read_text().split() == ["1", "2"]
    assert len((suite.path / "brought-up").read_text().split()) == 2
    [left] = suite.record()["tear_down_errors"]
    assert re.fullmatch(rf"runner gw\d ended in M00-02\[1\] \({re.escape(cause)}\): the watchdogs .*", left), left
    page = (suite.latest / "report.html").read_text()
    assert f"the runner ended while this check ran (call): {cause}" in page
    rows = re.search(r'data-jsonblob="([^"]*)"', page)[1]  # pytest-html's own table
    assert "test_dies[1]" in rows and f"the runner ended while this check ran (call): {cause}" in rows
    assert 'test_dies[1]" time' in (junit := (suite.latest / "junit.xml").read_text()) and cause in junit
    lines = [line for line in result.outlines if line.startswith("M00-02[1]")]
    assert lines == [f"M00-02[1] dies: the runner ended while this check ran (call): {cause}"]


@pytest.mark.parametrize("place", ["setup", "call", "teardown"])
@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_it_counts_where_failures_end_the_session(suite, option, place):
    suite.module(0, dying("is_killed", place))
    rejected(suite, "-n", "1", option)
    assert suite.outcomes() == {"M00-01": "passed", "M00-021": "error"}


@pytest.mark.parametrize("place", ["setup", "teardown"])
@pytest.mark.parametrize("args", [("-n", "1"), ("-n", "2", "--maxprocesses", "1")], ids=["one", "maxprocesses"])
def test_the_phase_is_told(suite, place, args):
    suite.module(0, dying("is_killed", place))
    rejected(suite, *args)
    cause = f"the runner ended while this check ran ({place}): killed by signal 9 (SIGKILL)"
    assert errors_of(suite) == {"M00-021": cause}
    assert set(suite.outcomes()) == {"M00-01", "M00-021", "M00-022", "M00-03"}


BRINGS_DOWN = """
    @pytest.fixture(scope="session")
    def deployment():
        is_killed()

    @pytest.mark.check("M00-01")
    def test_before(): pass
    @pytest.mark.check("M00-02")
    def test_needs_it(deployment): pass
    @pytest.mark.check("M00-03")
    def test_needs_it_too(deployment): pass
    @pytest.mark.check("M00-04")
    def test_after(): pass
"""


def test_a_bring_up_that_takes_the_runner_down_is_told_of_each_check_that_asks_for_it(suite):
    suite.module(0, DIES + BRINGS_DOWN)
    rejected(suite, "-n", "2")
    assert suite.outcomes() == {"M00-01": "passed", "M00-02": "error", "M00-03": "error", "M00-04": "passed"}
    assert len(suite.record()["tear_down_errors"]) == 2  # the runner and the one that replaced it


TWICE = """
    @pytest.mark.check("MNUMBER-01")
    @pytest.mark.parametrize("n", range(3))
    def test_dies(n):
        if NUMBER == 1 and n == 0: wait_for("gw2")
        if n < 2: is_killed()
"""


def test_runners_that_die_at_once_and_their_replacements(suite):
    """One of them while the replacement of the other collects."""
    wait_for = """
    def wait_for(name):
        while not os.path.exists(name): signal.sigtimedwait([], 0.05)
"""
    for number in (0, 1):
        suite.module(number, DIES + wait_for + TWICE.replace("MNUMBER", f"M{number:02}").replace("NUMBER", str(number)))
    suite.pytester.makeconftest(
        CONFTEST
        + """
def pytest_collection(session):
    if getattr(session.config, "workerinput", {}).get("workerid") == "gw2":
        import time
        open("gw2", "w").close()
        time.sleep(3)
"""
    )
    rejected(suite, "-n", "2")
    outcomes = {f"M{number:02}-01{n}": "error" if n < 2 else "passed" for number in (0, 1) for n in range(3)}
    assert suite.outcomes() == outcomes


def test_more_deaths_than_runners_may_be_replaced(suite):
    suite.module(0, dying("is_killed"))
    rejected(suite, "-n", "1", "--max-worker-restart=0")
    assert suite.outcomes() == {"M00-01": "passed", "M00-021": "error"}
    assert suite.record()["problems"] == [
        "2 selected checks did not run: 1 runners ended, and --max-worker-restart lets 0 be replaced"
    ]


@pytest.mark.parametrize("when", ["pytest_sessionstart(session)", "pytest_collection(session)"])
def test_a_runner_that_dies_before_it_has_collected(suite, when):
    suite.module(0, GREEN.replace("M01", "M00"))
    suite.pytester.makeconftest(
        CONFTEST
        + f"""
def {when}:
    if hasattr(session.config, "workerinput"):
        os._exit(5)
"""
    )
    rejected(suite, "-n", "1")
    lost = "ended before it had collected (exit status 5): the watchdogs on the nodes take down what it had"
    assert suite.record()["tear_down_errors"] == [f"runner gw{n} {lost}" for n in range(5)]


def test_a_runner_that_dies_between_two_checks(suite):
    suite.module(0, GREEN.replace("M01", "M00"))
    suite.pytester.makeconftest(
        CONFTEST
        + """
class Ends:
    def pytest_runtest_logfinish(self, nodeid):
        if "[1]" in nodeid: os._exit(5)

def pytest_configure(config):
    if getattr(config, "workerinput", {}).get("workerid") == "gw0":
        config.pluginmanager.register(Ends())
"""
    )
    rejected(suite, "-n", "1")
    assert suite.outcomes() == {f"M00-01{n}": "passed" for n in range(4)}
    assert suite.record()["tear_down_errors"] == [
        "runner gw0 ended between two checks (exit status 5): the watchdogs on the nodes take down what it had"
    ]


@pytest.mark.parametrize("half", [b"", b'{"nodes": [', b'{"owner": "\xc3'])
def test_a_record_that_is_not_finished_is_told_and_the_others_count(tmp_path, half):
    (tmp_path / "runner-gw0.json").write_bytes(half)
    whole = (
        '{"nodes": [], "left_out": [], "versions": {}, "topology": {"components": [], "edges": []}, "timeline": [], '
    )
    whole += '"deployments": [], "waits": [], "processor": [], '
    (tmp_path / "runner-gw1.json").write_text(
        f'{whole}"transcript": [], "tear_down_errors": ["one"], "kept": [], "answers": {{}}}}'
    )
    settings = SimpleNamespace(distributing=True, report_dir=tmp_path)
    told, other = collect_records(None, settings, ["gw0", "gw1"], {})["tear_down_errors"]
    assert told.startswith("runner gw0 did not finish its record (") and "runner-gw0.json" in told
    assert other == "one"


def test_a_runner_that_collects_other_checks_than_the_one_it_replaces(suite):
    suite.module(
        0, dying("is_killed").replace("[1, 2]", "[1, 2] if os.environ['PYTEST_XDIST_WORKER'] < 'gw1' else [1]")
    )
    rejected(suite, "-n", "1")
    assert suite.outcomes() == {"M00-01": "passed", "M00-021": "error"}
    [problem] = suite.record()["problems"]
    assert problem.startswith("runner gw1 collected other tests than the runners before it")


def test_a_test_that_is_no_check(suite):
    suite.module(0, GREEN.replace("M01", "M00"))
    suite.write("tests/test_other.py", "import os\ndef test_dies(): os._exit(3)\ndef test_after(): pass\n")
    rejected(suite, "-n", "2", "tests_by_module", "tests")
    [problem] = suite.record()["problems"]
    assert problem == "a test that is not a check failed: tests/test_other.py::test_dies (call)"
