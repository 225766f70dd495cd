"""Run in a child suite: one green check under every option of pytest that takes no value, each in a fork.

Prints a line of JSON for each: the arguments, the exit status, whether the check was called, the runs that were left,
whether reports/latest moved, the outcome of the check in the record, and the output.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

ENDS_WITHIN_S = 60
REPORTS, CALLED, OUTPUT = Path("reports"), Path("called"), Path("output.txt")
EARLIER = "20260101T000000Z-0000"
# modules are loaded before the forks; pytest would warn that it cannot rewrite their asserts any more
BASE = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


class Spy:
    actions = ()

    def pytest_configure(self, config: pytest.Config) -> None:
        self.actions = config._parser.optparser._actions


def reset() -> None:
    shutil.rmtree(REPORTS, ignore_errors=True)
    CALLED.unlink(missing_ok=True)
    (REPORTS / EARLIER).mkdir(parents=True)
    (REPORTS / "latest").symlink_to(EARLIER)


def run(args: list[str]) -> int:
    """The exit status of pytest in a fork, negative when a signal ended it."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (os.open(OUTPUT, os.O_WRONLY | os.O_CREAT), 1)):
        os.dup2(number, target)
    os.ftruncate(1, 0)
    os.dup2(1, 2)
    signal.alarm(ENDS_WITHIN_S)
    status = int(pytest.main([*BASE, *args]))
    sys.stdout.flush()
    os._exit(status)


def outcomes(run_id: str) -> list[str]:
    record = REPORTS / run_id / "run.json"
    return [check["outcome"] for check in json.loads(record.read_text())["checks"]] if record.is_file() else []


def main() -> None:
    spy = Spy()
    pytest.main(BASE, plugins=[spy])
    options = [
        action.option_strings[-1] for action in spy.actions if action.option_strings and action.nargs in (0, "?")
    ]
    for args in [[], *([name] for name in options)]:
        reset()
        status = run(args)
        runs = [path.name for path in REPORTS.glob("2*") if path.name != EARLIER]
        seen = {
            "args": args,
            "status": status,
            "called": CALLED.exists(),
            "outcomes": [outcomes(run_id) for run_id in runs],
            "moved": (REPORTS / "latest").resolve().name != EARLIER,
            "output": OUTPUT.read_text(errors="replace"),
        }
        print("SEEN " + json.dumps(seen), flush=True)


main()
