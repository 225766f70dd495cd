"""How a session is stopped: by a signal at any wait it is INCOMPLETE, by pytest itself after a failure REJECTED."""

import re
import signal
import textwrap
import time

import pytest

from plugins.tests.test_session import interrupted

RED = """
    @pytest.mark.check("M00-01")
    def test_red(): assert 0

    @pytest.mark.check("M00-02")
    def test_other(): pass
"""


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("option", ["-x", "--maxfail=1", "--stepwise"])
def test_a_run_that_stops_at_a_failure_is_rejected(suite, option, args):
    suite.module(0, RED)
    result = suite.pytester.runpytest_subprocess(option, *args)
    assert result.ret == 1
    assert result.outlines[-1].startswith("REJECTED (profile fake): 0 passed, 1 failed")
    record = suite.record()
    assert record["verdict"] == "REJECTED" and record["incomplete"][-1] == "selected, and never run: M00-02"


# ways to wait, each where a signal finds another frame
WAITS = {
    "sleep": "time.sleep(60)",
    "event": "threading.Event().wait(60)",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "condition": "condition = threading.Condition(threading.Lock())\nwith condition: condition.wait(60)",
    "queue": "queue.Queue().get(timeout=60)",
    "deadline": "Deadline(60, 'x').pause(60)",
    "subprocess": "child = subprocess.Popen(['sleep', '5'])\ntry: begin(); child.wait(5)\nfinally: child.kill()",
    "socket": "ours, theirs = socket.socketpair()\nwith ours, theirs:\n    begin()\n    ours.recv(1)",
    "select": "select.select([os.pipe()[0]], [], [], 60)",
    "asyncio": "asyncio.run(asleep())",
    "task": "asyncio.run(task())",
    "pool": "with ThreadPoolExecutor(2) as pool: list(pool.map(time.sleep, [3, 3]))",
    "join": "thread = threading.Thread(target=time.sleep, args=(3,)); thread.start(); thread.join()",
    # what a frame may make of it
    "another exception": "try: time.sleep(60)\nexcept KeyboardInterrupt: raise RuntimeError('release unlocked lock')",
    "an assertion": "try: time.sleep(60)\nexcept KeyboardInterrupt: assert 0, 'not seen in time'",
    "nothing": "try: time.sleep(60)\nexcept BaseException: print('lost')",
}
MODULE = """
import asyncio, os, pathlib, queue, select, socket, subprocess, threading, time
from concurrent.futures import ThreadPoolExecutor
from fixtures.basics.deadline import Deadline

def begin():
    pathlib.Path("waiting").touch()

async def asleep():
    begin()
    await asyncio.sleep(60)

async def task():
    begin()
    await asyncio.gather(asyncio.sleep(60), asyncio.to_thread(time.sleep, 1))

def wait():
{wait}

@pytest.fixture
def around(request):
    if {phase!r} == "set-up": wait()
    yield
    if {phase!r} == "tear-down": wait()
    pathlib.Path("torn-down").touch()

@pytest.mark.check("M00-01")
def test_first(around):
    if {phase!r} == "call": wait()

@pytest.mark.check("M00-02")
def test_second():
    pathlib.Path("begun").touch()
"""
ONCE, BURST = 1, 3


def waits(suite, wait, phase="call"):
    # what would be left half made, and be a warning of Python's, says itself that it waits
    if "begin()" not in wait and "asyncio.run" not in wait:
        wait = f"begin()\n{wait}"
    suite.module(0, MODULE.format(wait=textwrap.indent(wait, "    "), phase=phase))


def signals(number, times):
    """As a terminal, a launcher and a service manager may each send one."""

    def send(child):
        for _ in range(times):
            child.send_signal(number)
            time.sleep(0.02)

    return send


def is_incomplete(suite, status, output):
    assert status == 2, output
    record = suite.record()
    assert record["verdict"] == "INCOMPLETE" and record["incomplete"][0] == "interrupted"
    assert re.match(r"INCOMPLETE( for the part selected)? \(profile fake\): ", output.strip().splitlines()[-1])
    assert not (suite.path / "begun").exists(), "another check began"
    assert record["tear_down_errors"] == [] and record["problems"] == []
    return record


@pytest.mark.parametrize("times", [ONCE, BURST], ids=["once", "burst"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_signal_at_any_wait_of_a_check(suite, wait, times):
    waits(suite, wait)
    record = is_incomplete(suite, *interrupted(suite, signals(signal.SIGTERM, times)))
    [check] = record["checks"]
    if wait == WAITS["nothing"]:
        assert check["outcome"] == "passed"
    else:
        assert check["outcome"] == "error" and check["reason"].startswith("interrupted before it ended")
    assert (suite.path / "torn-down").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", ["sleep", "another exception", "an assertion", "nothing"])
def test_a_signal_at_a_wait_of_a_check_of_a_runner(suite, wait, number):
    waits(suite, WAITS[wait])
    is_incomplete(suite, *interrupted(suite, signals(number, ONCE), "-n", "2"))
    assert (suite.path / "torn-down").exists()


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("phase", ["set-up", "tear-down"])
@pytest.mark.parametrize("wait", ["sleep", "another exception"])
def test_a_signal_around_a_check(suite, phase, wait, args):
    waits(suite, WAITS[wait], phase)
    is_incomplete(suite, *interrupted(suite, signals(signal.SIGTERM, BURST), *args))


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_signal_during_the_collection(suite, args):
    waits(suite, WAITS["sleep"])
    suite.module(1, "import pathlib, time\npathlib.Path('waiting').touch()\ntime.sleep(20)\n")
    is_incomplete(suite, *interrupted(suite, signals(signal.SIGTERM, ONCE), *args, signs=("waiting",)))


SLOW_CLOSE = """
import time
from pathlib import Path

def close(self):
    Path("waiting").touch()
    time.sleep(3)
    Path("closed").touch()
    return []

FakeRun.close = close
"""


@pytest.mark.parametrize("args", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_signal_while_everything_is_taken_down(suite, args):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_it(): pass\n')
    status, output = interrupted(suite, signals(signal.SIGTERM, BURST), *args, signs=("waiting",), more=SLOW_CLOSE)
    record = is_incomplete(suite, status, output)
    assert (suite.path / "closed").exists()
    assert [check["outcome"] for check in record["checks"]] == ["passed"]


SLOW_CONTROLLER = """
def pytest_runtest_logstart(nodeid):
    if "PYTEST_XDIST_WORKER" not in __import__("os").environ:
        time.sleep(20)
"""


def test_what_runners_have_reported_before_a_signal_is_kept(suite):
    """The controller has not read the report of a check when it is interrupted."""
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_it(): pass\n')
    more = SLOW_CLOSE + SLOW_CONTROLLER
    status, output = interrupted(suite, signals(signal.SIGTERM, ONCE), "-n", "1", signs=("waiting",), more=more)
    record = is_incomplete(suite, status, output)
    assert [check["outcome"] for check in record["checks"]] == ["passed"], output


def test_an_interruption_of_a_runner_alone_is_one_of_the_run(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_it(): raise KeyboardInterrupt\n')
    result = suite.run("-n", "2")
    assert result.ret == 2 and suite.record()["incomplete"][0] == "interrupted"
