"""The session as a whole: xdist, interruption, selection, overrides, plants, and hostile plugins."""

import os
import re
import signal
import subprocess
import sys

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from plugins.tests.conftest import CONFTEST
from plugins.times import NO_TIMES

MODULE = """
    import os

    @pytest.fixture(scope="package", autouse=True)
    def deployment():
        with open("brought-up", "a") as file:
            file.write(f"NUMBER {os.getpid()}\\n")
        yield

    @pytest.mark.check("MNUMBER-01")
    @pytest.mark.parametrize("n", range(6))
    def test_many(n, measure):
        measure("x_s", n)
"""


def test_each_module_stays_on_one_runner(suite):
    for number in range(4):
        thresholds = f"M{number:02}-01: {{x_s: {{max: 9, unit: s, source: a}}}}"
        suite.module(number, MODULE.replace("NUMBER", f"{number:02}"), thresholds)
    assert suite.run("-n", "2").ret == 0
    brought_up = [line.split() for line in (suite.path / "brought-up").read_text().splitlines()]
    assert sorted(module for module, _ in brought_up) == ["00", "01", "02", "03"]
    assert len({pid for _, pid in brought_up}) == 2
    together = suite.record()["checks"]
    assert len(together) == 24
    assert suite.run().ret == 0
    for check in (alone := suite.record()["checks"]) + together:
        for name in ("duration_s", "shared_setup_s", *NO_TIMES):
            del check[name]
    assert alone == together


@pytest.mark.parametrize("args", [(), ("-n", "2")])
def test_a_run_begins_with_how_long_the_same_checks_took(suite, args):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    told = re.compile(r"about 0:\d\d min: the last run of these checks took as long")
    assert not told.search(suite.run(*args).stdout.str())
    lines = suite.run(*args).outlines
    (at,) = (number for number, line in enumerate(lines) if told.fullmatch(line))
    assert not any(line.startswith(".") for line in lines[:at])


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_wait_for_another_run_is_no_check_s_time(suite, args):
    test = """
        @pytest.fixture
        def nodes(pytestconfig):
            from plugins.session import RUN
            import time
            time.sleep(3)
            pytestconfig.stash[RUN].waits.append({"what": "wait: x", "start_s": 0.0, "duration_s": 3.0})

        @pytest.mark.check("M00-01")
        def test_needs_nodes(nodes): pass
    """
    suite.module(0, test)
    assert suite.run(*args).ret == 0
    assert suite.record()["checks"][0]["duration_s"] < 2
    assert max(float(time) for time in re.findall(r'time="([^"]+)"', (suite.latest / "junit.xml").read_text())[1:]) < 2


WAITS = """
    @pytest.mark.check("M00-01")
    def test_waits(measure, evidence):
        import pathlib, time
        measure("x_s", 1)
        evidence.text("log", "seen")
        pathlib.Path("waiting").touch()
        time.sleep(60)
"""


# a runner tells its controller which check it begins: on a busy machine that comes long after the beginning
HEARS = """
import pathlib, pytest

class Hears:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart(self):
        pathlib.Path("heard").touch()

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Hears())
"""


def interrupted(suite, interrupt, *args, signs=("waiting", "heard"), more=""):
    """A run that is interrupted once it has left these signs, files in its folder: its exit status and output."""
    suite.pytester.makeconftest(CONFTEST + HEARS + more)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    child = subprocess.Popen(command, cwd=suite.path, start_new_session=True, **pipes)

    def look() -> tuple[bool | None, object]:
        there = [name for name in signs if (suite.path / name).exists()]
        return (True if len(there) == len(signs) or child.poll() is not None else None), there

    try:
        wait_until(look, Deadline(60, "a check to run, and its controller to know"))
        interrupt(child)
        output, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    return child.returncode, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_an_interrupted_run_leaves_its_record(suite, number, args):
    suite.module(0, WAITS)
    status, output = interrupted(suite, lambda child: child.send_signal(number), *args)
    assert status == 2, output
    record = suite.record()
    assert record["verdict"] == "INCOMPLETE" and record["incomplete"][0] == "interrupted"
    assert [(check["id"], check["reason"]) for check in record["checks"]] == [("M00-01", "interrupted before it ended")]
    if not args:  # what it had measured is kept; of a runner it is lost
        assert [m["name"] for m in record["checks"][0]["measurements"]] == ["x_s"]
        assert [entry["title"] for entry in record["checks"][0]["evidence"]] == ["log"]
    assert record["tear_down_errors"] == []
    assert record["nodes"][0]["facts"] == {"cpu": "2"}  # the Run's own record, so it was asked and closed
    assert re.match(r"INCOMPLETE \(profile fake\): 0 passed", output.strip().splitlines()[-1])
    assert (suite.latest / "report.html").is_file()


SLOW_TEAR_DOWN = """
    @pytest.fixture(autouse=True)
    def deployment():
        import pathlib, time
        yield
        time.sleep(11)
        pathlib.Path("torn-down").touch()
"""


@pytest.mark.parametrize("interrupt", [os.killpg, os.kill], ids=["ctrl-c", "controller-alone"])
def test_interrupted_runners_have_the_time_that_their_tear_down_takes(suite, interrupt):
    """Longer than the 10 s after which xdist kills them."""
    suite.module(0, SLOW_TEAR_DOWN + WAITS)
    status, _ = interrupted(suite, lambda child: interrupt(child.pid, signal.SIGINT), "-n", "2")
    assert (status, suite.record()["verdict"], suite.record()["tear_down_errors"]) == (2, "INCOMPLETE", [])
    assert (suite.path / "torn-down").exists()


def test_a_site_overrides_single_thresholds(suite):
    test = '@pytest.mark.check("M00-01")\ndef test_it(measure):\n    measure("x_s", 7)\n    measure("y_s", 7)\n'
    suite.module(0, test, "M00-01:\n  x_s: {max: 5, unit: s, source: book}\n  y_s: {max: 8, unit: s, source: book}\n")
    assert suite.run().ret == 1
    suite.write("inventory/local.thresholds.yaml", "M00-01:\n  x_s: {max: 9, unit: s, source: our own disks}\n")
    assert suite.run().ret == 0
    sources = [m["threshold"]["source"] for m in suite.record()["checks"][0]["measurements"]]
    assert sources == ["our own disks", "book"]


@pytest.mark.parametrize(("value", "n", "reason"), [("1", 2, "n=2, 9 are needed"), ("1", 9, None)])
def test_too_few_samples_are_incomplete(suite, value, n, reason):
    test = f'@pytest.mark.check("M00-01")\ndef test_it(measure):\n    measure("x_s", {value}, n={n})\n'
    suite.module(0, test, "M00-01: {x_s: {max: 5, unit: s, min_n: 9, source: book}}")
    assert suite.run().ret == (6 if reason else 0)
    assert suite.record()["incomplete"] == ([f"M00-01: x_s has {reason}"] if reason else [])


def test_derived_markers_select(suite):
    suite.module(
        0,
        """
        @pytest.mark.check("M00-01")
        @pytest.mark.needs("gpu", "multi_node")
        def test_gpu(): pass
        @pytest.mark.check("M00-02")
        def test_plain(): pass
        """,
    )
    assert suite.run("-m", "gpu and multi_node").ret == 0
    assert suite.outcomes() == {"M00-01": "passed"}
    assert suite.run("-m", "single_node").ret == 0
    assert suite.outcomes() == {"M00-02": "passed"}


@pytest.mark.parametrize(("args", "runners"), [([], {"main": 1}), (["-n", "3"], {"gw0": 3, "gw1": 3, "gw2": 3})])
def test_each_runner_knows_how_many_there_are(suite, args, runners):
    for number in range(3):
        suite.module(number, MODULE.replace("NUMBER", f"{number:02}"))
    told = 'print(settings.runner, settings.runners, file=open("runners", "a"))'
    (suite.path / "conftest.py").write_text(CONFTEST.replace("return FakeRun", f"{told}; return FakeRun"))
    suite.run(*args)
    lines = (suite.path / "runners").read_text().splitlines()
    assert {name: int(count) for name, count in map(str.split, lines)} == runners


def test_the_seed_is_kept(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    suite.run("--seed", "7")
    assert suite.record()["seed"] == 7


HOSTILE = """
    def pytest_ignore_collect(collection_path):
        return True if collection_path.name.startswith("test_NAME_") else None
"""


def test_plugins_of_an_engine_do_not_hide_test_files(suite):
    """ai-dynamo's wheel registers such plugins; the stand-ins here are distributions of their own."""
    names = ["vllm", "sglang", "trtllm", "triton"]
    for index, name in enumerate(names):
        suite.write(f"{name}_hides.py", HOSTILE.replace("NAME", name))
        suite.write(f"{name}_hides-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}-hides\nVersion: 1\n")
        suite.write(f"{name}_hides-1.dist-info/entry_points.txt", f"[pytest11]\n{name}_tests = {name}_hides\n")
        suite.module(0, f'@pytest.mark.check("M00-0{index}")\ndef test_it(): pass\n', name=f"test_{name}_x.py")
    blocked = [arg for name in names for arg in ("-p", f"no:{name}_tests")]  # as in pyproject.toml's addopts
    command = [sys.executable, "-m", "pytest"]
    hidden = subprocess.run(command, cwd=suite.path, capture_output=True, text=True, timeout=60)
    assert hidden.returncode == 6, hidden.stdout  # they do hide, and a run of nothing is not accepted
    seen = subprocess.run([*command, *blocked], cwd=suite.path, capture_output=True, timeout=60)
    assert seen.returncode == 0
    assert len(suite.outcomes()) == 4


def test_the_suite_itself_blocks_them():
    import tomllib
    from pathlib import Path

    options = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["pytest"]
    options = options.get("ini_options", options)["addopts"]
    assert {f"no:{name}_tests" for name in ("vllm", "sglang", "trtllm", "triton")} <= set(options)


RED = """
    import pytest

    @pytest.mark.check("M{number}-03")
    def test_workers(): assert 0, "a worker is missing"

    @pytest.mark.check("M{number}-04")
    def test_frontend(): pass
"""
PLANTS = """
    from fixtures.plants.plant import Plant

    class WorkerAbsent(Plant):
        "One worker is never started."
        catches = {"M00-03": "missing"}

    class FrontendAbsent(Plant):
        "The frontend is never started."
        catches = {"M00-03": "missing", "M00-04": "frontend"}
"""


@pytest.fixture
def planting(suite):
    for number, name in (("00", "architecture"), ("01", "first_inference")):
        suite.write(f"tests_by_module/module_{number}_{name}/__init__.py", "")
        suite.write(f"tests_by_module/module_{number}_{name}/test_it.py", RED.replace("{number}", number))
    suite.write("tests_by_module/module_00_architecture/plants.py", PLANTS)
    return suite


def test_a_plant_runs_its_modules_and_is_said_to_be_caught(planting):
    result = planting.run("--plant", "worker_absent", "--inventory", "inventory/local.yaml", "-n", "2")
    assert result.ret == 1
    assert result.outlines[-1].startswith(
        "REJECTED for the part selected (profile fake, plant worker_absent): 1 passed, 1"
    )
    assert result.outlines[-3] == "plant worker_absent: CAUGHT by M00-03, as expected"
    told = planting.record()["plant"]
    assert (told["name"], told["word"], told["by"]) == ("worker_absent", "caught", ["M00-03"])
    assert planting.outcomes() == {"M00-03": "failed", "M00-04": "passed"}
    page = (planting.latest / "report.html").read_text(encoding="utf-8")
    assert "worker_absent: CAUGHT by M00-03, as expected" in page


@pytest.mark.parametrize(
    ("keyword", "line"),
    [
        ("", "NOT CAUGHT: M00-04 stays passed"),
        ("M00-03", "CAUGHT IN PART, by M00-03; not selected: M00-04"),
        ("M00-04", "NOT CAUGHT: M00-04 stays passed; the verdict is ACCEPTED, exit status 0"),
        ("nothing", "NOT CAUGHT: none of the checks that must catch it was selected: M00-03, M00-04"),
    ],
)
def test_a_plant_that_is_not_caught_is_said_to_be_none(planting, keyword, line):
    result = planting.run("--plant", "frontend_absent", "-k", keyword)
    assert f"plant frontend_absent: {line}" in result.outlines
    assert planting.record()["plant"]["line"] == f"plant frontend_absent: {line}"


def test_plants_are_listed_for_a_machine_to_read(planting):
    result = planting.run("--list-plants")
    assert result.ret == 0
    assert [line.split("\t") for line in result.outlines] == [
        ["worker_absent", "M00-03", "One worker is never started."],
        ["frontend_absent", "M00-03,M00-04", "The frontend is never started."],
    ]


def test_two_plants_of_one_name_are_a_usage_error(planting):
    planting.write("tests_by_module/module_01_first_inference/plants.py", PLANTS)
    result = planting.run("--plant", "worker_absent")
    assert result.ret == 4 and "two plants are called worker_absent: in " in str(result.stderr)


def test_without_a_plant_no_file_of_plants_is_read(planting):
    planting.write("tests_by_module/module_00_architecture/plants.py", "raise RuntimeError('it was read')")
    planting.run("-k", "M00-04").stdout.fnmatch_lines(["*1 passed*"])
    assert "it was read" in str(planting.run("--plant", "any").stderr)


def test_a_dry_run_prints_commands_and_runs_nothing(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    result = suite.run("--dry-run")
    assert result.ret == 0
    assert "# local" in result.outlines and len(result.outlines) > 3
    assert not (suite.path / "reports").exists()


def test_keep_says_how_to_take_it_down(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    suite.run("--keep").stdout.fnmatch_lines(["*kept running*", "take it down: by hand", "ACCEPTED*"])
