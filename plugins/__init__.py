"""pytest policy: options, capabilities, verdict, evidence, report, scheduling, plants."""

import pytest

ALL = [
    "plugins.hookspecs",
    "plugins.options",
    "plugins.site_checks",
    "plugins.dry_run",
    "plugins.interruption",
    "plugins.lifecycle",
    "plugins.marks",
    "plugins.capabilities",
    "plugins.output",
    "plugins.cases",
    "plugins.durations",
    "plugins.causes",
    "plugins.outcomes",
    "plugins.evidence",
    "plugins.silence",
    "plugins.deaths",
    "plugins.sampling",
    "plugins.record",
    "plugins.estimate",
    "plugins.resume",
    "plugins.nights",
    "plugins.terminal",
    "plugins.summary",
    "plugins.report",
    "plugins.scheduling",
]

# Some import others: pytest must know all of them before it imports the first.
pytest.register_assert_rewrite(*ALL)


def refuse_parts(pluginmanager: pytest.PytestPluginManager) -> None:
    """Raises UsageError when one of these plugins is switched off: without it a run could say something false."""
    if off := [name for name in ALL if pluginmanager.is_blocked(name)]:
        raise pytest.UsageError(f"-p no:{off[0]}: this plugin is a part of the suite; there is no verdict without it")
