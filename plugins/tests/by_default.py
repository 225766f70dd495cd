"""A Dynamo that somebody starts with its own defaults, in a network of its own that only loopback leads into."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from fixtures.basics.deadline import Deadline, Threads, wait_until
from fixtures.product.deployments.deployment import Equipment
from plugins.tests.by_hand import members
from plugins.tests.children import environment

ENDS_WITHIN_S, RUN_WITHIN_S = 20, 240
STANDARD_STREAMS = 3
# longer than a read may take, shorter than a lease; together shorter than the reads of M04-11
STOPPED_S, CONTINUED_S = 0.8, 0.7
# inside a network namespace ports are free, and ZMQ publishers, which bind every address, are reached by nobody else.
# The second address is what workers register as their machine's: the first that is no loopback.
NETWORK = """
set -e
ip link set lo up
ip link add own0 type veth peer name own1
ip addr add 10.77.0.1/24 dev own0
ip link set own0 up && ip link set own1 up
cd "$FOLDER" && export HOME="$FOLDER" HF_HUB_OFFLINE=1 PATH="$(dirname "$PYTHON"):$PATH"
"$ETCD" > etcd.log 2>&1 &
"$NATS" -js -sd nats > nats.log 2>&1 &
until (exec 3<> /dev/tcp/127.0.0.1/2379) 2> /dev/null; do sleep 0.1; done
"""
START = """
export TMPDIR="$FOLDER"
python -m dynamo.frontend > frontend.log 2>&1 &
python -m dynamo.mocker --model-path "$MODEL" --model-name tiny-qwen3 > worker-1.log 2>&1 &
python -m dynamo.mocker --model-path "$MODEL" --model-name tiny-qwen3 > worker-2.log 2>&1 &
wait
"""
REVISION = """
import base64, json, urllib.request
body = json.dumps({"key": base64.b64encode(b"none").decode()}).encode()
answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:2379/v3/kv/range", body), timeout=5)
print(json.load(answer)["header"]["revision"])
"""
ASKED = """
import urllib.request
lines = urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode().splitlines()
print(int(sum(float(line.split()[-1]) for line in lines if line.startswith("dynamo_frontend_requests_total{"))))
"""
LISTED = """
import sys, urllib.request
sys.exit(b"tiny-qwen3" not in urllib.request.urlopen("http://127.0.0.1:8000/v1/models", timeout=2).read())
"""


class ByDefault:
    """What was started, from within its network."""

    def __init__(self, shell: subprocess.Popen[bytes], tree: Path, folder: Path, etcd: str) -> None:
        self.logs = f"{folder}/*.log"
        self.etcd = etcd
        self._shell = shell
        self._inside = ("nsenter", "--target", str(shell.pid), "--net", "--user", "--preserve-credentials")
        self._tree = tree

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command of Python in the copy of the suite."""
        command = [*self._inside, sys.executable, *argv]
        env = environment()
        return subprocess.run(command, cwd=self._tree, capture_output=True, text=True, timeout=RUN_WITHIN_S, env=env)

    @contextmanager
    def in_the_background(self, script: str) -> Iterator[str]:
        """A script of Python that runs meanwhile, from its first line of output on, which is given."""
        command = [*self._inside, sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                said = running.stdout.readline().strip() if running.stdout else ""
                assert said, "it said nothing"
                yield said
            finally:
                running.kill()

    def lists_the_model(self) -> tuple[bool | None, object]:
        done = self.run("-c", LISTED)
        return (None if done.returncode else True), done.stderr[-300:]

    def revision(self) -> int:
        """etcd's, which every write makes greater."""
        return int(self.run("-c", REVISION).stdout)

    @contextmanager
    def without_descriptors(self, module: str) -> Iterator[None]:
        """The process of that module may open no more files while inside.

        The bound is on the number of a descriptor, and those of closed connections are free again: only one below all
        of its own leaves none.
        """
        pid = self._process(module)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (STANDARD_STREAMS, before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    @contextmanager
    def stalling(self, word: str) -> Iterator[None]:
        """The process with that word in its command is stopped and continued in pulses while inside."""
        pid, over = self._process(word), Event()

        def pulse() -> None:
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                over.wait(STOPPED_S)
                os.kill(pid, signal.SIGCONT)
                over.wait(CONTINUED_S)

        with Threads(1) as pool:
            pulses = pool.submit(pulse)
            try:
                yield
            finally:
                over.set()
                pulses.result()

    def _process(self, word: str) -> int:
        argv = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in members(self._shell.pid)}
        (pid,) = (pid for pid, words in argv.items() if word.encode() in words)
        return pid

    def asked(self) -> int:
        """Requests that the frontend has counted so far, whatever became of them."""
        return int(self.run("-c", ASKED).stdout)


@contextmanager
def by_default(equipment: Equipment, folder: Path, tree: Path, start: str = START, **given: str) -> Iterator[ByDefault]:
    """Started on entry, ended on exit; `start` what is more than etcd and NATS, with the variables that are `given`."""
    folder.mkdir()
    given |= {
        "FOLDER": str(folder),
        "ETCD": equipment.etcd_binary,
        "NATS": equipment.nats_binary,
        "PYTHON": equipment.runtime.python,
        "MODEL": equipment.model.path,
    }
    argv = ["unshare", "--map-root-user", "--net", "bash", "-c", NETWORK + start]
    shell = subprocess.Popen(argv, env={**environment("DYN_", "ETCD_", "NATS_"), **given}, start_new_session=True)
    try:
        theirs = ByDefault(shell, tree, folder, equipment.server("etcd"))
        wait_until(
            theirs.lists_the_model,
            Deadline(equipment.runtime.spec.settings.ready_within_s, "what is started"),
            every_s=0.5,
        )
        yield theirs
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(ENDS_WITHIN_S)
        gone = lambda: (None if members(shell.pid) else True, members(shell.pid))  # noqa: E731
        wait_until(gone, Deadline(ENDS_WITHIN_S, f"process group {shell.pid} to end"))
