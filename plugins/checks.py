"""The checks that exist, read from the test files without importing them."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = "tests_by_module"
CHECK_ID = re.compile(r"M(\d\d)-\d\d")
MODULE = re.compile(r"module_(\d\d)_\w+")


@dataclass(frozen=True)
class KnownCheck:
    id: str
    module: str
    path: str  # relative to the root, with slashes: the first part of the node id
    function: str
    title: str
    line: int


def title_of(function: str, docstring: str | None) -> str:
    """The first line of the docstring, else the name read as a sentence."""
    lines = (docstring or "").strip().splitlines()
    return lines[0].strip() if lines else function.removeprefix("test_").replace("_", " ")


def read_checks(root: Path) -> tuple[tuple[KnownCheck, ...], bool]:
    """Every function marked with `check("…")` below tests_by_module, and whether all files could be read."""
    found: list[KnownCheck] = []
    complete = True
    for path in sorted((root / TESTS).glob("*/test_*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            complete = False  # pytest itself reports the file, with the line
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for check_id in _ids(node):
                    title = title_of(node.name, ast.get_docstring(node))
                    relative = path.relative_to(root).as_posix()
                    found.append(KnownCheck(check_id, path.parent.name, relative, node.name, title, node.lineno))
    return tuple(found), complete


def _ids(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterable[str]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in ("pytest.mark.check", "mark.check"):
            values = [*decorator.args, *(k.value for k in decorator.keywords if k.arg == "id")]
            if values and isinstance(values[0], ast.Constant) and isinstance(values[0].value, str):
                yield values[0].value


def required_ids(patterns: Iterable[str], known: Iterable[KnownCheck], complete: bool = True) -> frozenset[str]:
    """The ids that `dynamo_requires` names; "!pattern" takes out again. Raises UsageError on a pattern for nothing."""
    ids = sorted({check.id for check in known})
    required: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(ids, pattern.removeprefix("!"))
        if not matching and complete:
            raise pytest.UsageError(
                f"dynamo_requires: {pattern!r} matches no check; known are {', '.join(ids) or 'none'}"
            )
        if pattern.startswith("!"):
            required.difference_update(matching)
        else:
            required.update(matching)
    return frozenset(required)
