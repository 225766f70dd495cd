"""What the terminal shows of others: their secrets hidden, their control characters escaped; pytest's colours stay."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytest

from fixtures.basics.printable import printable
from fixtures.basics.redact import redact, redacted

NEW_LINE = "\n"


def clean(text: str) -> str:
    """Text of a node, a log or a server, as a report and a terminal may have it."""
    return printable(redact(text))


def clean_report(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In place: its traceback, what was captured, and its reason. A traceback that changes loses its colours."""
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, clean(reason))
    elif report.longrepr is not None and clean(text := report.longreprtext) != text:
        report.longrepr = clean(text)
    if isinstance(report, pytest.TestReport):
        report.user_properties = [(name, redacted({name: value})[name]) for name, value in report.user_properties]
    report.sections = [(name, clean(content)) for name, content in report.sections]


def show_at_once(config: pytest.Config, text: str, stream: str = "stderr") -> None:
    """Shows a line although pytest keeps what is printed meanwhile."""
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")  # not on an xdist runner
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        if terminal:
            terminal.ensure_newline()
            terminal.flush()
        # the controller's line of dots may stand where a runner writes
        start = NEW_LINE if hasattr(config, "workerinput") else ""
        print(f"{start}{clean(text)}", file=getattr(sys, stream), flush=True)


def say(config: pytest.Config, text: str, **colours: bool) -> None:
    """Writes a line of the suite's own, also where pytest's terminal is switched off."""
    if terminal := config.pluginmanager.getplugin("terminalreporter"):
        terminal.write_line(text, **colours)
    else:
        show_at_once(config, text, "stdout")


def print_lines(lines: Iterable[str]) -> None:
    """To stdout, while pytest captures nothing. A reader that leaves, as `head` does, ends it quietly."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@pytest.hookimpl(optionalhook=True)
def pytest_metadata(metadata: dict[str, Any]) -> None:
    """pytest-metadata puts a CI's environment variables into every report."""
    metadata.update(redacted(metadata))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Everything that pytest and its plugins write passes here: warnings, progress, summaries and internal errors."""
    if not config.pluginmanager.hasplugin("terminalreporter"):
        return
    writer = config.get_terminal_writer()
    markup, write, write_raw = writer.markup, writer.write, writer.write_raw
    # stands for the escape character in what pytest paints; no node can guess it
    escape = "".join(chr(0xF0000 + secrets.randbelow(0xFFF0)) for _ in range(2))

    def write_clean(msg: str, **how: bool) -> None:
        start = "\r" if msg.startswith("\r") else ""  # lines of progress are rewritten
        write(start + clean(msg[len(start) :]), **how)

    writer.code_highlight = False  # pytest highlights in the middle of an assertion's message, which may hold anything
    writer.markup = lambda text, **colours: markup(printable(text), **colours).replace(  # type: ignore[method-assign]
        "\x1b", escape
    )
    writer.write = write_clean  # type: ignore[method-assign]
    writer.write_raw = lambda msg, **how: write_raw(msg.replace(escape, "\x1b"), **how)  # type: ignore[method-assign]
