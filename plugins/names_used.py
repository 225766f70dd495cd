"""What a check refers to, read from its code: which of the library's parts it brings up is known before it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest

from fixtures.basics.check_source import TESTS


def names_used(item: pytest.Item) -> set[str]:
    """The names that the check, its fixtures and their helpers in the suite refer to."""
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009
    functions = [definition[-1].func for definition in definitions]
    names: set[str] = set()
    seen: set[CodeType] = set()
    for function in [item.function, *functions]:  # type: ignore[attr-defined]
        names.update(_names(function, seen))
    return names


def _names(function: Callable[..., Any], seen: set[CodeType]) -> Iterator[str]:
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return
    seen.add(code)
    for name in _names_of(code):
        yield name
        helper = function.__globals__.get(name)
        if inspect.isfunction(helper) and helper.__module__.startswith(f"{TESTS}."):
            yield from _names(helper, seen)


def _names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)
