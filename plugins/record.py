"""What happened in the session, gathered in the one process that writes run.json and what lies beside it."""

from __future__ import annotations

import json
import subprocess
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fixtures.answers.of_all import OfAll
from fixtures.basics.check_source import TESTS
from fixtures.basics.findings import Finding, FoundWrong
from fixtures.basics.redact import redacted
from plugins import ctrf, job_summary
from plugins.against import Nights, slower
from plugins.interruption import INTERRUPTION
from plugins.lifecycle import collect_records
from plugins.not_covered import grouped
from plugins.outcomes import INTERRUPTED, blank_record, record_of
from plugins.output import clean
from plugins.plants import judge
from plugins.session import CHECK, Settings, settings_of
from plugins.times import cores, on_clock, own_processor, summed
from plugins.verdict import Verdict, decide, label

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "reports" / "run.schema.json"
OF_SILENT_NODES = "M00-01"


class Recorder:
    """Listens to the session's hooks; `finish` makes the record."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()
        self.checks: list[dict[str, Any]] = []
        self.problems: list[str] = []  # each of them rejects the session
        self.usage_errors: list[str] = []
        self.selected: set[str] = set()  # node ids
        self.running: dict[str, None] = {}  # node ids started and not yet recorded, in order
        self.runners: list[str] = []
        self.deaths: dict[str, tuple[str, str]] = {}  # runner -> where it was, what ended it
        self._recorded: set[str] = set()  # node ids
        self._items: dict[str, pytest.Item] = {}
        self.deselected = False
        self.runner_interrupted = False
        self.resumes: dict[str, Any] | None = None  # the run that this one goes on with
        self.nights: Nights | None = None
        self.data: dict[str, Any] = {}
        self.verdict: Verdict | None = None

    # what pytest tells

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = report.longreprtext.strip().splitlines()
            why = lines[-1] if lines else "no reason given"
            self.problems.append(f"could not be collected: {report.nodeid}: {why}")

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected = self.deselected or bool(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._items = {item.nodeid: item for item in session.items}
        self.selected |= set(self._items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "acceptance", None)
        if record is not None:
            self.add(report.nodeid, record)
        elif not report.nodeid.startswith(f"{TESTS}/"):
            self.running.pop(report.nodeid, None)
            if report.failed:
                self.problems.append(f"a test that is not a check failed: {report.nodeid} ({report.when})")

    def pytest_internalerror(self, excrepr: object) -> None:
        self.problems.append(f"internal error: {str(excrepr).strip().splitlines()[-1]}")

    # what xdist tells

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self.selected |= set(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self.runners.append(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})
        self.deselected = self.deselected or output.get("deselected", False)
        self.runner_interrupted = self.runner_interrupted or output.get("interrupted", False)
        if "usage_error" in output and output["usage_error"] not in self.usage_errors:
            self.usage_errors.append(output["usage_error"])

    # the record

    def add(self, nodeid: str, record: dict[str, Any]) -> None:
        self.running.pop(nodeid, None)
        if nodeid in self._recorded:
            again = f"{label(record)} ran more than once, by a plugin or an option of pytest: its first result counts"
            self.problems += [again] if again not in self.problems else []
            return
        self._recorded.add(nodeid)
        record = on_clock(record, self._clock) | {"required": record["id"] in self.settings.required}
        self.checks.append(record)
        with (self.settings.report_dir / "measurements.jsonl").open("a", encoding="utf-8") as lines:
            for measurement in record["measurements"]:
                line = {"run_id": self.settings.run_id, "check": record["id"], "case": record["case"], **measurement}
                lines.write(json.dumps(line) + "\n")

    def _known(self, nodeid: str) -> Any:
        path, _, rest = nodeid.partition("::")
        function = rest.split("[")[0].split("::")[-1]
        return next((c for c in self.settings.known if (c.path, c.function) == (path, function)), None)

    def unfinished(self, nodeid: str, reason: str) -> dict[str, Any]:
        """The entry of a check that never ended, with what it had measured where this process knows it."""
        if (item := self._items.get(nodeid)) is not None:
            return record_of(item, item.stash[CHECK]) | {"outcome": "error", "reason": reason}
        known = self._known(nodeid)
        case = nodeid.partition("[")[2].removesuffix("]")
        check_id, title = (known.id, known.title) if known else (nodeid, nodeid)
        return blank_record(check_id, case, nodeid.split("/")[1], title) | {"reason": reason}

    def _revise(self, answers: dict[str, OfAll]) -> None:
        """What any runner saw of all answers fails the check of it, which ran on one of them."""
        for check in self.checks:
            seen = answers.get(check["id"])
            if seen and seen.wrong and check["outcome"] in ("passed", "failed", "not_covered"):
                found = FoundWrong([Finding(clean(text)) for text in seen.findings], seen.about)
                findings = [{"text": each.text, "node": each.node} for each in found.findings]
                check |= {"outcome": "failed", "reason": str(found), "findings": findings}

    def finish(self, exitstatus: int) -> None:
        settings = self.settings
        for nodeid in [nodeid for nodeid in self.running if nodeid.startswith(f"{TESTS}/")]:
            self.add(nodeid, self.unfinished(nodeid, INTERRUPTED))
        run = collect_records(self.config, settings, self.runners, self.deaths)
        self._revise(run.get("answers", {}))
        if exitstatus not in (0, 1, 2, 5) and not self.problems:
            self.problems.append(f"pytest ended with exit status {int(exitstatus)}")
        selected_ids = {known.id for nodeid in self.selected if (known := self._known(nodeid))}
        self.data = {
            "schema_version": schema()["properties"]["schema_version"]["const"],
            "run_id": settings.run_id,
            "verdict": "",
            "exit_status": 0,
            "profile": settings.inventory.cluster.dynamo_profile,
            "inventory": {"path": str(settings.inventory.path), "fingerprint": settings.inventory.fingerprint},
            "selection": self._selection(selected_ids),
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - self._clock, 3),
            "seed": settings.seed,
            "resumes": self.resumes,
            "plant": {"name": settings.plant.name} if settings.plant else None,
            "suite": {"version": suite_version(), "git": git_revision(self.config.rootpath)},
            "required": sorted(settings.required),
            "nodes": run["nodes"] or declared_nodes(settings.inventory),
            "versions": run["versions"],
            "topology": run["topology"],
            "timeline": self._on_clock(run["timeline"]),
            "deployments": self._on_clock(run["deployments"]),
            "waits": self._on_clock(run["waits"]),
            "processor": summed([*run["processor"], *(own_processor(children=False) if settings.distributing else ())]),
            "cores": cores(),
            "checks": sorted(self.checks, key=lambda check: (check["id"], check["case"])),
            "problems": self.problems,
            "tear_down_errors": run["tear_down_errors"],
            "kept": run["kept"],
        }
        self.data["comparison"] = comparison = self.nights.found(self.data) if self.nights else None
        self.problems += [each["sentence"] for each in slower(comparison)]
        if not any(each["id"] == OF_SILENT_NODES and each["outcome"] == "failed" for each in self.checks):
            self.problems += dict.fromkeys(run["left_out"])
        self.data = redacted(self.data)
        self._judge(exitstatus, selected_ids)
        if mismatch := schema_mismatch(self.data):
            self.problems.append(f"run.json does not fit its schema: {mismatch}")
            self._judge(exitstatus, selected_ids)
        if self.nights and exitstatus != pytest.ExitCode.USAGE_ERROR and not self.usage_errors:
            self.nights.keep(self.data)
        write(settings.report_dir / "run.json", json.dumps(self.data, indent=1, allow_nan=False) + "\n")
        assert self.verdict is not None
        groups = grouped(self.data["checks"], settings, self.config.rootpath)
        summary = job_summary.render(self.data, self.verdict, groups)
        write(settings.report_dir / "summary.md", summary)
        job_summary.show(summary)
        write(settings.report_dir / "ctrf.json", ctrf.render(self.data))
        write(settings.report_dir / "transcript.txt", transcript_text(run["transcript"]))

    def _on_clock(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [on_clock(each, self._clock) for each in entries]

    def _judge(self, exitstatus: int, selected_ids: set[str]) -> None:
        never = [node_id for node_id in self.selected - self._recorded if node_id.startswith(f"{TESTS}/")]
        never_ran = sorted(label(self.unfinished(node_id, "")) for node_id in never)
        interrupted = self.runner_interrupted or self.config.stash[INTERRUPTION].happened
        self.verdict = decide(self.data, never_ran, interrupted=interrupted, pytest_failed=exitstatus == 1)
        self.data["verdict"], self.data["exit_status"] = self.verdict.word, self.verdict.exit_status
        self.data["incomplete"] = self.verdict.incomplete
        if plant := self.settings.plant:
            self.data["plant"] = redacted(judge(plant, self.data, selected_ids).record())

    def _selection(self, selected_ids: set[str]) -> dict[str, Any]:
        whole = self.settings.required or {check.id for check in self.settings.known}
        part = self.deselected or any("::" in arg for arg in self.config.args) or not whole <= selected_ids
        return {
            "arguments": list(self.config.args),
            "keyword": self.config.getoption("keyword"),
            "markers": self.config.getoption("markexpr"),
            "part": part,
        }


RECORDER: pytest.StashKey[Recorder] = pytest.StashKey()


def recorder_of(config: pytest.Config) -> Recorder | None:
    """What gathers the record, in the one process that writes it."""
    return config.stash.get(RECORDER, None)


def declared_nodes(inventory: Any) -> list[dict[str, Any]]:
    return [
        {"name": node.name, "roles": list(node.dynamo_roles), "address": node.dynamo_data_address, "facts": {}}
        for node in inventory.nodes
    ]


def schema() -> dict[str, Any]:
    """The JSON schema of run.json, with the version of its shape."""
    read: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return read


def schema_mismatch(data: dict[str, Any]) -> str | None:
    """The first place where `data` does not fit reports/run.schema.json, or None."""
    validator = jsonschema.Draft202012Validator(schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    return f"{error.json_path}: {error.message}" if error else None


def suite_version() -> str:
    """The suite's version, as pyproject.toml states it."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def git_revision(root: Path) -> str | None:
    """The suite's commit, None when it is no git checkout."""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def transcript_text(entries: list[dict[str, Any]]) -> str:
    """Per node, every command in its order, as one would paste it; what it gave is in comments."""
    lines = []
    for node in dict.fromkeys(entry["node"] for entry in entries):
        lines += [f"# ---- node {node}", ""]
        for entry in entries:
            if entry["node"] == node:
                ended = "did not end by itself" if entry["rc"] is None else f"exit {entry['rc']}"
                lines += [f"# {entry['at']}  {ended}, {entry['duration_s']:.3f} s", entry["command"], ""]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def pytest_configure(config: pytest.Config) -> None:
    settings = settings_of(config)
    if settings is not None and settings.writes:
        config.stash[RECORDER] = Recorder(config, settings)
        config.pluginmanager.register(config.stash[RECORDER], "acceptance-recorder")


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items and hasattr(items[0].config, "workeroutput"):
        items[0].config.workeroutput["deselected"] = True
