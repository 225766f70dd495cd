"""A deployment that somebody starts in shells of their own, with the commands that a run's transcript shows."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.clients.etcd import Etcd
from fixtures.clients.inference import InferenceEndpoint, complete

NAMESPACE = "by_hand"
SERVICE = re.compile(r"/logs/(etcd|nats|frontend|worker-\d)\.log 2>&1 &$")
PORT = re.compile(r"(?:127\.0\.0\.1:|--port |--http_port |--http-port |DYN_SYSTEM_PORT=)(\d+)")
READY_WITHIN_S, ENDS_WITHIN_S = 60, 20
SETTLED_S = 2
# Dynamo takes no system port beyond 32767, and the suite itself gives out those from 20000 on
PORTS = range(12_000, 20_000)
# all of that many on one of two workers by chance: less often than once in a million times
REQUESTS = 24


@dataclass(frozen=True)
class State:
    """Who runs (process number → start in clock ticks, command line), their open files, and etcd's keys."""

    processes: dict[int, tuple[str, str]]
    open_files: dict[int, int]
    keys: list[tuple[str, bytes, int, int]]


class ByHand:
    """The services of the run `run_id`, in another folder and namespace and on other ports."""

    def __init__(self, transcript: str, run_id: str, folder: Path) -> None:
        text = "\n".join(line for line in transcript.splitlines() if SERVICE.search(line))
        free = _free_ports()
        for port in dict.fromkeys(PORT.findall(text)):
            text = re.sub(rf"\b{port}\b", str(next(free)), text)
        (workdir,) = set(re.findall(r"(?m)^cd (\S+) &&", text))
        text = text.replace(workdir, str(folder)).replace(f"acc_{run_id.replace('-', '_').lower()}", NAMESPACE)
        assert run_id not in text and run_id.lower() not in text, text
        found = dict(re.findall(r"(ETCD_ENDPOINTS|NATS_SERVER|--http-port)[= ](\S+)", text))
        self.etcd_url, self.nats_url = found["ETCD_ENDPOINTS"], found["NATS_SERVER"]
        self.endpoint = InferenceEndpoint(f"http://127.0.0.1:{found['--http-port']}", "tiny-qwen3")
        self._dynamo = [line for line in text.splitlines() if "ETCD_ENDPOINTS" in line]
        self._servers = [line for line in text.splitlines() if line not in self._dynamo]
        assert (len(self._servers), len(self._dynamo)) == (2, 3), text
        self._shells: list[subprocess.Popen[bytes]] = []
        for home in re.findall(r" HOME=(\S+)", text):
            Path(home).mkdir(parents=True)
        (folder / "logs").mkdir()

    def start(self) -> None:
        """etcd and NATS, and when etcd answers the others; returns when both workers have served."""
        for lines, ready in ((self._servers, self._etcd_answers), (self._dynamo, self._both_serve)):
            script = "\n".join([*lines, "wait"])
            self._shells.append(subprocess.Popen(["bash", "-c", script], start_new_session=True))
            wait_until(ready, Deadline(READY_WITHIN_S, "what is started by hand"), every_s=0.3)

    def stop(self) -> None:
        for shell in reversed(self._shells):
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(ENDS_WITHIN_S)
            deadline = Deadline(ENDS_WITHIN_S, f"process group {shell.pid} to end")
            wait_until(lambda group=shell.pid: (None if members(group) else True, members(group)), deadline)

    def state(self) -> State:
        processes = {
            number: (_stat(number)[19], Path(f"/proc/{number}/cmdline").read_text()) for number in self._processes()
        }
        return State(processes, self.open_files(), self._keys())

    def open_files(self) -> dict[int, int]:
        """Of each process. Asks nobody, so that looking opens nothing."""
        return {number: len(os.listdir(f"/proc/{number}/fd")) for number in self._processes()}

    def settled(self) -> State:
        """As soon as nobody has opened or closed a file for a while: what they needed to start is closed."""
        seen, since = self.open_files(), time.monotonic()

        def look() -> tuple[bool | None, object]:
            nonlocal seen, since
            now = self.open_files()
            if now != seen:
                seen, since = now, time.monotonic()
            return (True if time.monotonic() - since > SETTLED_S else None), now

        wait_until(look, Deadline(READY_WITHIN_S, "open files to stay the same"), every_s=0.1)
        return self.state()

    def _processes(self) -> list[int]:
        return [number for shell in self._shells for number in members(shell.pid)]

    def served_by(self) -> set[int]:
        """Ids of the workers that answered some requests."""
        answers = [complete(self.endpoint, f"hello {n}", max_tokens=1, timeout_s=5) for n in range(REQUESTS)]
        return {worker for answer in answers for worker in answer.worker_ids}

    def _keys(self) -> list[tuple[str, bytes, int, int]]:
        client = Etcd(self.etcd_url)
        try:
            return [(key.name, key.value, key.lease_id, key.revision) for key in client.prefix("")]
        finally:
            client.close()

    def _etcd_answers(self) -> tuple[bool | None, object]:
        try:
            return (True if self._keys() == [] else None), "there are keys"
        except CouldNotLook as error:
            return None, error

    def _both_serve(self) -> tuple[bool | None, object]:
        workers = self.served_by()
        return (True if len(workers) == 2 else None), f"{len(workers)} workers serve"


def _free_ports() -> Iterator[int]:
    """Each port once."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                yield port


def _stat(number: int) -> list[str]:
    """/proc/…/stat from its third field on."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()


def members(group: int) -> list[int]:
    """Numbers of the processes of a group."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            stat = _stat(int(proc.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(stat[2]) == group and stat[0] != "Z":
            found.append(int(proc.name))
    return sorted(found)


@contextmanager
def by_hand(transcript: str, run_id: str, folder: Path) -> Iterator[ByHand]:
    """Started on entry, ended on exit."""
    theirs = ByHand(transcript, run_id, folder)
    try:
        theirs.start()
        yield theirs
    finally:
        theirs.stop()
