"""The suite's options, and the settings they make; whatever is wrong in them ends pytest before a node is touched."""

from __future__ import annotations

import argparse
import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

import plugins
from fixtures.basics.check_source import TESTS, KnownCheck, SiteChecks, read_checks
from fixtures.basics.measurement import Threshold
from fixtures.basics.redact import hide
from fixtures.basics.thresholds import ThresholdError, Thresholds, bounds_of, load_thresholds
from plugins import allocation
from plugins.checks import OF_A_SITE, required_ids
from plugins.output import print_lines
from plugins.plants import load_plants, plant_of
from plugins.session import INVENTORY, PLANT, SETTINGS, Settings, settings_of
from plugins.site_checks import argument_paths, site_checks

if TYPE_CHECKING:
    from fixtures.cluster.inventory.model import Inventory
    from fixtures.plants.plant import Plant

# options of pytest, by the name of their value: these show something, run no check and leave no run
SHOWS = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow", "collectonly")
# and with these a check could count that was not run to its end, or was run until it passed
REFUSED = {
    "setuponly": "--setup-only runs no check; --dry-run shows the commands of the bring-up",
    "setupplan": "--setup-plan runs no check; --collect-only lists the checks that are selected",
    "looponfail": "--looponfail runs failed checks again until they pass; run the command again instead",
    "reruns": "--reruns runs failed checks again until they pass; run the command again instead",
    "force_flaky": "--force-flaky runs failed checks again until they pass; run the command again instead",
}
# pytest-benchmark's: a check is no benchmark, and it ends in a traceback where it finds none
REFUSED |= {
    f"benchmark_{name}": f"--benchmark-{name}: no check is a benchmark of pytest-benchmark; figures are in run.json"
    for name in ("only", "autosave", "save", "compare", "json")
}
NO_SKIPPING = "-p no:skipping: pytest-benchmark needs this plugin; with -p no:benchmark it can be switched off"
NO_ASSERT = "Python ignores assert statements here, so no check can fail: start it without -O, unset PYTHONOPTIMIZE"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    plugins.refuse_parts(pluginmanager)
    group = parser.getgroup("acceptance", "acceptance of a Dynamo cluster")
    group.addoption(
        "--inventory",
        metavar="PATH",
        help="the nodes to verify (default: inventory/local.yaml). For a file outside this checkout write "
        "--inventory=PATH, or tests_by_module before it",
    )
    group.addoption(
        "--site-checks",
        metavar="FOLDER",
        help="also run the checks of your own in this folder. Write --site-checks=FOLDER, or tests_by_module before it",
    )
    group.addoption("--plant", metavar="NAME", help="run with this fault planted, and say which checks caught it")
    group.addoption(
        "--list-plants", action="store_true", help="list all plants: name, checks that must fail, what it does"
    )
    group.addoption(
        "--resume",
        metavar="RUN",
        help="run what this earlier run (its folder, or its id among the reports) did not judge; run.json says so",
    )
    group.addoption(
        "--compare",
        metavar="RUN",
        help="reject what got slower than in this earlier run (its folder or id; latest: the newest saved reference)",
    )
    group.addoption("--save-reference", action="store_true", help="keep this run as a reference for --compare latest")
    group.addoption("--dry-run", action="store_true", help="print the commands for the selected checks, run nothing")
    group.addoption("--keep", action="store_true", help="leave the deployment up, and say how to take it down")
    group.addoption("--reports", metavar="FOLDER", help="where runs leave their folders (default: reports/)")
    group.addoption(
        "--report-mode",
        type=_folder_mode,
        default=0o700,
        metavar="MODE",
        help="access to the run's folder, in octal: 0750 lets the group read it (default: 0700, the owner alone)",
    )
    group.addoption(
        "--endurance",
        type=_seconds,
        default=6.0,
        metavar="SECONDS",
        help="how long the checks marked endurance load the deployment (default: 6)",
    )
    group.addoption("--seed", type=int, metavar="N", help="the run's one seed (default: a new one, kept in run.json)")


def inventory_path(config: pytest.Config) -> Path:
    """The one that is given, else the one that the plant is for, else the embedded default."""
    given: str | None = config.getoption("inventory")
    if given:
        return config.invocation_params.dir / given
    plant = _plant(config)
    return config.rootpath / "inventory" / f"{plant.inventory if plant else 'local'}.yaml"


def inventory_of(config: pytest.Config) -> Inventory:
    """The inventory of this session, read once. Raises pytest.UsageError for one that is wrong."""
    from fixtures.cluster.inventory import InventoryError, load

    if INVENTORY not in config.stash:
        try:
            config.stash[INVENTORY] = load(inventory_path(config))
        except InventoryError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[INVENTORY]


def is_under_test(config: pytest.Config) -> bool:
    """True when an argument is tests_by_module or the site's folder, lies inside one of them, or contains it."""
    tests = config.rootpath / TESTS
    if not tests.is_dir():
        return False
    site = site_checks(config)
    args = [path.resolve() for path in argument_paths(config)]
    folders = [folder.resolve() for folder in (tests, *([site.folder] if site else []))]
    return any(arg == folder or folder in arg.parents or arg in folder.parents for arg in args for folder in folders)


def only_shows(config: pytest.Config) -> bool:
    """True when pytest was asked to show something instead of running tests."""
    return any(config.getoption(name, None) for name in SHOWS)


def _refuse(config: pytest.Config) -> None:
    refused = [why for name, why in REFUSED.items() if config.getoption(name, None)]
    if config.pluginmanager.is_blocked("skipping") and config.pluginmanager.hasplugin("benchmark"):
        refused.append(NO_SKIPPING)
    if not __debug__:
        refused.append(NO_ASSERT)
    if refused:
        raise pytest.UsageError("\n".join(refused))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if config.getoption("list_plants"):
        plants = load_plants(config.rootpath, site_checks(config)).values()
        print_lines("\t".join((plant.name, ",".join(plant.catches), plant.does)) for plant in plants)
        return 0
    if is_under_test(config) and not only_shows(config):
        _refuse(config)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    lists = bool(config.getoption("collectonly"))
    if (only_shows(config) and not lists) or not is_under_test(config):
        return
    inventory = inventory_of(config)
    plant = config.stash[PLANT] = _plant(config)
    if plant and not inventory.cluster.dynamo_managed:
        raise pytest.UsageError(
            f"--plant {plant.name}: {inventory.path} attaches to a running Dynamo, in which nothing is planted"
        )
    if lists:
        return
    cluster = inventory.cluster
    hide(*filter(None, (cluster.dynamo_etcd_url, cluster.dynamo_nats_url, cluster.dynamo_frontend_url)))
    site = site_checks(config)
    known, complete = read_checks(config.rootpath, site)
    workerinput = getattr(config, "workerinput", {})
    handed = workerinput.get("acceptance")  # what the xdist controller decided
    if not handed:
        allocation.require(config, inventory)
    run_id = handed["run_id"] if handed else f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    config.stash[SETTINGS] = settings = Settings(
        inventory=inventory,
        run_id=run_id,
        report_dir=Path(handed["report_dir"]) if handed else _reports(config) / run_id,
        plant=plant,
        keep=config.getoption("keep"),
        seed=handed["seed"] if handed else _seed(config),
        runner=workerinput["workerid"] if handed else "main",
        distributing=not handed and config.getoption("dist", "no") != "no" and bool(config.getoption("tx")),
        runners=workerinput["workercount"] if handed else 1,
        known=known,
        required=required_ids(inventory.cluster.dynamo_requires, known, complete),
        thresholds=thresholds_of(config.rootpath, inventory, known, site),
        site_checks=site,
    )
    if not settings.writes:
        return
    # a checkout that is read-only keeps no cache, and needs none
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestCacheWarning")
    try:
        settings.report_dir.mkdir(parents=True, mode=0o700)
        settings.report_dir.chmod(config.getoption("report_mode"))  # mkdir's own mode is cut by the umask
    except OSError as error:
        raise pytest.UsageError(
            f"cannot write reports to {settings.report_dir.parent}: {error.strerror}; choose a folder with --reports"
        ) from None
    if config.pluginmanager.hasplugin("junitxml"):
        config.option.xmlpath = config.option.xmlpath or str(settings.report_dir / "junit.xml")
    if makes_page(config) and not config.getoption("htmlpath"):
        config.option.htmlpath = str(settings.report_dir / "report.html")
        config.option.self_contained_html = True


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The xdist controller hands the run to a runner that starts."""
    if settings := settings_of(node.config):
        handed = {"run_id": settings.run_id, "seed": settings.seed, "report_dir": str(settings.report_dir)}
        node.workerinput["acceptance"] = handed


def pytest_report_header(config: pytest.Config) -> list[str]:
    settings = settings_of(config)
    if settings is None:
        return []
    plant = f", plant {settings.plant.name}" if settings.plant else ""
    header = f"acceptance: run {settings.run_id}, inventory {settings.inventory.path}, seed {settings.seed}{plant}"
    return [header, *(f"warning: {warning}" for warning in settings.inventory.warnings)]


def _folder_mode(text: str) -> int:
    """An octal mode by which at least the owner can list, read and write."""
    mode = int(text, 8) if re.fullmatch("0?[0-7]{3}", text) else 0
    if mode & 0o700 != 0o700:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal mode such as 0700 or 0750, with 7 for the owner")
    return mode


def _seconds(text: str) -> float:
    """A length of time in which something may be seen to grow."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 5 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 5 to 1000000")
    return seconds


def _reports(config: pytest.Config) -> Path:
    given = config.getoption("reports")
    return config.invocation_params.dir / Path(given).expanduser() if given else config.rootpath / "reports"


def makes_page(config: pytest.Config) -> bool:
    """pytest-html, where it is there, needs pytest-metadata."""
    return config.pluginmanager.hasplugin("html") and config.pluginmanager.hasplugin("metadata")


def _seed(config: pytest.Config) -> int:
    given = config.getoption("seed")
    return secrets.randbits(32) if given is None else given


def _plant(config: pytest.Config) -> type[Plant] | None:
    """Without --plant no file of plants is read."""
    name = config.getoption("plant")
    try:
        return plant_of(name, config.rootpath, site_checks(config)) if name is not None else None
    except (LookupError, ValueError) as error:
        raise pytest.UsageError(f"--plant: {error.args[0]}") from None


def thresholds_of(
    root: Path, inventory: Inventory, known: tuple[KnownCheck, ...], site: SiteChecks | None
) -> Thresholds:
    """Those of the modules and of a site's own checks; over them `<inventory>.thresholds.yaml` beside the inventory."""
    from fixtures.cluster.inventory.environments import Engine

    merged: Thresholds = {}
    engines = {inventory.runtime(node.dynamo_runtime).engine for node in inventory.with_role("worker")}
    suites = sorted((root / TESTS).glob("*/thresholds.yaml"))
    files: list[tuple[Path, set[str] | None]] = [(path, None) for path in suites]
    if site:  # bounds of the suite's checks are changed beside the inventory, where a reader looks for them
        files.append((site.folder / "thresholds.yaml", {check.id for check in known if check.module == site.module}))
    files.append((bounds_of(inventory.path), {check.id for check in known}))
    try:
        for path, may_name in [each for each in files if each[0].is_file()]:
            of_suite = {check.id for check in known if may_name and check.module != (site and site.module)}
            for check_id, names in load_thresholds(path).items():
                if may_name is not None and check_id not in may_name:
                    there = ", ".join(sorted(may_name)) or "none"
                    raise ThresholdError(f"{path}: there is no check {check_id}; known are {there}{OF_A_SITE}")
                for name, bound in names.items():
                    if check_id in of_suite and name not in (measured := merged.get(check_id, {})):
                        there = ", ".join(measured) or "nothing"
                        raise ThresholdError(f"{path}: {check_id} does not measure {name!r}; it measures {there}")
                    if bound.engine not in (None, *get_args(Engine)):
                        known_engines = ", ".join(get_args(Engine))
                        raise ThresholdError(f"{path}: {check_id}: {name}: engine is one of {known_engines}")
                here = {name: bound.where(engines) for name, bound in names.items()}
                _replace(merged.setdefault(check_id, {}), here)
    except ThresholdError as error:
        raise pytest.UsageError(str(error)) from None
    return merged


def _replace(of_check: dict[str, Threshold], names: dict[str, Threshold]) -> None:
    """A bound of a site's own is compared with earlier runs as the suite's is, unless it says otherwise itself."""
    for name, bound in names.items():
        if bound.better is None and (before := of_check.get(name)):
            bound = replace(bound, better=before.better, tolerance_percent=before.tolerance_percent)
        of_check[name] = bound
