"""ctrf.json: the record in the Common Test Report Format, for tools that read it (ctrf.io)."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import Any

from plugins.verdict import label

SPEC = "0.1.0"
# by the outcome of a check; rawStatus keeps the outcome itself
STATUS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "not_covered": "skipped",
    "blocked_by_hardware": "skipped",
    "known_defect": "other",
}
STATUSES = ("passed", "failed", "skipped", "pending", "other")


def render(data: dict[str, Any]) -> str:
    """The text of ctrf.json. `data` is a record that fits reports/run.schema.json."""
    began_ms = round(1000 * datetime.fromisoformat(data["started"]).timestamp())
    ended_ms = began_ms + round(1000 * data["duration_s"])
    tests = [_test(check, began_ms) for check in data["checks"]]
    counts = Counter(test["status"] for test in tests)
    kept = ("run_id", "verdict", "exit_status", "incomplete", "problems", "tear_down_errors", "profile", "seed")
    report = {
        "reportFormat": "CTRF",
        "specVersion": SPEC,
        "timestamp": data["started"],
        "generatedBy": f"dynamo-acceptance {data['suite']['version']}",
        "results": {
            "tool": {"name": "dynamo-acceptance", "version": data["suite"]["version"]},
            "summary": {
                "tests": len(tests),
                **{status: counts[status] for status in STATUSES},
                "start": began_ms,
                "stop": ended_ms,
            },
            "tests": tests,
            "environment": {
                "appName": "ai-dynamo",
                "appVersion": str(data["versions"].get("ai-dynamo") or "not known"),
                "testEnvironment": data["profile"],
                "healthy": data["verdict"] == "ACCEPTED",
                **({"commit": data["suite"]["git"]} if data["suite"]["git"] else {}),
            },
            "extra": {key: data[key] for key in kept},
        },
    }
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _test(check: dict[str, Any], began_ms: int) -> dict[str, Any]:
    began = {} if check["start_s"] is None else {"start": began_ms + round(1000 * check["start_s"])}
    kept = ("required", "nodes", "measurements", "evidence", "found_causes", "by_hand")
    return {
        "name": f"{label(check)} {check['title']}".strip(),
        "status": STATUS[check["outcome"]],
        "rawStatus": check["outcome"],
        "duration": round(1000 * check["duration_s"]),
        **began,
        "suite": [check["module"] or "no module"],
        **({"message": check["reason"]} if check["reason"] else {}),
        **({"threadId": check["runner"]} if check["runner"] else {}),
        "extra": {"id": check["id"], "case": check["case"], **{key: check[key] for key in kept}},
    }
