"""README.md and the map of the modules agree with what they describe."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = 130
PICTURE_KB = 300


def test_the_two_commands_are_on_lines_of_their_own():
    commands = [line for line in README.splitlines() if line.startswith("PIP_BREAK_SYSTEM_PACKAGES=1 ")]
    assert [line.rpartition("pytest ")[2] for line in commands] == ["tests_by_module", "fixtures plugins -n 4"]


def test_the_readme_is_read_in_three_minutes():
    assert len(README.splitlines()) <= LINES


def test_every_link_leads_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for pattern in ("*.md", "[!.]*/*.md", ".github/*.md", "fixtures/**/*.md", "tests_by_module/**/*.md")
        for page in ROOT.glob(pattern)
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken, broken


def test_the_picture_is_small_enough_to_load_at_once():
    assert (ROOT / ".github" / "report.png").stat().st_size < PICTURE_KB * 1024
