"""summary.md: the record as Markdown, short enough for the page of a CI job."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from fixtures.basics.printable import printable
from plugins.against import told
from plugins.not_covered import Group, counted
from plugins.outcomes import first_line
from plugins.verdict import Verdict, alike, by_reason, label

TEMPLATES = Path(__file__).parent.parent / "reports" / "templates"


def render(data: dict[str, Any], verdict: Verdict, not_covered: Sequence[Group]) -> str:
    """The text of summary.md. `data` is a record that fits reports/run.schema.json; `not_covered` groups its checks."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"text": text, "label": label, "first_line": first_line, "counted": counted}
    return environment.get_template("summary.md.j2").render(
        run=data,
        verdict=verdict,
        red=alike(data["checks"]),
        grouped={name: by_reason(data["checks"], name) for name in ("known_defect", "blocked_by_hardware")},
        not_covered=not_covered,
        compared=told(data.get("comparison")),
    )


def show(summary: str) -> None:
    """On the page of the GitHub job that this is a step of, if it is one."""
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(summary)


def text(value: object) -> str:
    """A value as plain text of one Markdown line or cell: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", printable(" ".join(str(value).split())))
