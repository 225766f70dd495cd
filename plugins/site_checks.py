"""A site's own checks: with --site-checks a folder outside the suite stands beside its modules, as one more of them.

What is in the folder has node ids as if it were tests_by_module/site_NAME, so that all other plugins treat its checks
as the suite's own: one verdict, one report, one runner.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fixtures.basics.check_source import TESTS, SiteChecks

SITE: pytest.StashKey[SiteChecks | None] = pytest.StashKey()


def site_checks(config: pytest.Config) -> SiteChecks | None:
    """What --site-checks names, or None. Raises UsageError."""
    if SITE not in config.stash:
        given = config.getoption("site_checks", None)
        config.stash[SITE] = _site(config, given) if given else None
    return config.stash[SITE]


def _site(config: pytest.Config, given: str) -> SiteChecks:
    folder = Path(os.path.abspath(config.invocation_params.dir / Path(given).expanduser()))
    if not folder.is_dir():
        raise pytest.UsageError(f"--site-checks: {folder} is not a folder")
    tests = config.rootpath / TESTS
    if folder == tests or tests in folder.parents or folder in tests.parents:
        raise pytest.UsageError(f"--site-checks: {folder} overlaps {tests}, which holds the suite's own checks")
    if not any(folder.rglob("test_*.py")):
        raise pytest.UsageError(f"--site-checks: {folder} holds no file test_*.py")
    return SiteChecks(folder, f"site_{re.sub(r'[^a-z0-9]+', '_', folder.name.lower()).strip('_') or 'checks'}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """The folder is collected, too, where no argument leads there. Runners of xdist get the arguments made here."""
    if (site := site_checks(config)) and not any(
        path == site.folder or site.folder in path.parents for path in argument_paths(config)
    ):
        config.args.append(str(site.folder))


def argument_paths(config: pytest.Config) -> list[Path]:
    """The files and folders that pytest was asked for."""
    return [Path(os.path.abspath(config.invocation_params.dir / arg.split("::")[0])) for arg in config.args]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    site = site_checks(parent.config)
    if site is None or site.folder not in module_path.parents:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=site.node_path(module_path))
