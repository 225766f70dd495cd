"""pytest policy: options, capabilities, verdict, evidence, report, scheduling, plants."""

import pytest

ALL = [
    "plugins.hookspecs",
    "plugins.options",
    "plugins.lifecycle",
    "plugins.marks",
    "plugins.capabilities",
    "plugins.terminal",
    "plugins.outcomes",
    "plugins.evidence",
    "plugins.record",
    "plugins.verdict",
    "plugins.report",
    "plugins.scheduling",
]

# They import each other; told to pytest beforehand, whichever is imported first.
pytest.register_assert_rewrite(*ALL)
