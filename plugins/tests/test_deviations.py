"""Deployments that run already and are not as the suite would start them: served, with real Dynamo, etcd and NATS."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.clients import access, http
from fixtures.clients.inference import InferenceEndpoint, listed_models
from fixtures.cluster.inventory import load
from fixtures.cluster.inventory.loader import SUITE
from fixtures.product.deployments.bring_up import new_worker
from fixtures.product.deployments.bring_up import start as start_services
from fixtures.product.deployments.managed import ManagedDeployment, discard
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.product.services.control_plane import Etcd, Nats
from fixtures.product.services.dynamo import Frontend
from fixtures.run import Run
from fixtures.tests import proxy as proxy_script
from fixtures.tests.certificates import Certificates, certificates
from fixtures.tests.guarded import GuardedNats, TlsEtcd
from plugins.tests.children import Child, installed, inventory, start, tree

pytestmark = pytest.mark.slow

__all__ = ["installed", "inventory", "start", "tree"]

NAMESPACE = "theirs"
MODULES = ("module_00_architecture", "module_02_frontend", "module_04_service_discovery", "module_06_kv_aware_routing")
LOOKED_AT = tuple(f"tests_by_module/{name}" for name in MODULES)
SECRET = "s3cret-of-the-test"
REFUSED_WITHIN_S = 30
INCOMPLETE = 6  # exit status: something that is required is not covered


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Run]:
    """Gives this machine as a node with all that Dynamo needs."""
    options = {"runner": "main", "keep": False, "seed": 1}
    run = Run(
        load(SUITE / "local.yaml"),
        run_id=f"t{secrets.token_hex(4)}",
        report_dir=tmp_path_factory.mktemp("report"),
        **options,
    )
    yield run
    access.forget()
    assert run.close() == []


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def theirs(
    run: Run, etcd: Etcd, nats: Nats, workers: tuple[dict, ...] = ({}, {}), registered: bool = True, **changes
) -> Iterator[ManagedDeployment]:
    """A deployment of somebody else's: each of `workers` is changes to its settings.

    With `registered` they are in etcd, all in its namespace.
    """
    (equipment,) = run.equipment().values()
    settings = run.settings().but(namespace=NAMESPACE, etcd_url=etcd.url, nats_url=nats.url, **changes)
    name = f"frontend-{secrets.token_hex(2)}"
    frontend = Frontend(name, equipment.node, equipment.runtime, settings)
    deployment = ManagedDeployment(settings, frontend.url, etcd, nats, [frontend], prefix=f"{secrets.token_hex(2)}-")
    for own in workers:
        new_worker(deployment, equipment, **own)
    try:
        if registered:
            start_services(deployment)
        else:
            for service in deployment.services:
                service.start(Deadline(60, service.name))
            deployment.shared = True
            wait_until_serving(deployment, Deadline(60, "a completion"))
        yield deployment
    finally:
        discard(deployment)


def etcd_and_nats(run: Run) -> tuple[Etcd, Nats]:
    (equipment,) = run.equipment().values()
    names = [f"{name}-{secrets.token_hex(2)}" for name in ("etcd", "nats")]
    etcd, nats = (equipment.server(kind) for kind in ("etcd", "nats"))
    return Etcd(names[0], equipment.node, etcd), Nats(names[1], equipment.node, nats)


@contextmanager
def proxied(upstream: str, port: int, *options: str) -> Iterator[None]:
    """A proxy of the tests in front of `upstream`, in a process of its own."""
    argv = [sys.executable, proxy_script.__file__, str(port), upstream, *options]
    process = subprocess.Popen(argv, env={"KEY": SECRET})
    try:
        scheme = "https" if "--cert" in options else "http"

        def answers() -> tuple[bool | None, object]:
            try:
                http.get(f"{scheme}://127.0.0.1:{port}/", 1)
            except http.httpx.ConnectError as error:
                return ("CERTIFICATE" in str(error) or None), error
            return True, None

        wait_until(answers, Deadline(20, "the proxy"))
        yield
    finally:
        process.terminate()
        process.wait(10)


def attached(inventory, deployment: ManagedDeployment, **variables: str | None) -> str:
    """The inventory of whoever attaches to it; variables without dynamo_, None takes one out."""
    settings = deployment.settings
    urls = {"etcd_url": settings.etcd_url, "nats_url": settings.nats_url, "frontend_url": deployment.frontend_url}
    declared = {"managed": "false", "attached_load": "1000", "namespace": NAMESPACE, **urls, **variables}
    lines = tuple(f"dynamo_{name}: {value}" for name, value in declared.items() if value is not None)
    return inventory(cluster=lines, dynamo_runtime="installed", dynamo_event_plane=settings.event_plane)


def served(child: Child, *not_covered: str) -> dict[str, str]:
    """Reasons by check; nothing failed, and these checks are `not_covered`."""
    reasons = child.reasons()
    bad = {name: why for name, why in reasons.items() if why.startswith(("failed", "error"))}
    assert not bad, child.text
    assert {name for name in not_covered if reasons[name].startswith("not_covered")} == set(not_covered), child.text
    everything = [path for path in (child.tree / "reports" / child.run_id).rglob("*") if path.is_file()]
    assert everything and not [path for path in everything if SECRET.encode() in path.read_bytes()]
    assert SECRET not in child.text
    return reasons


def refused(child: Child, *words: str) -> None:
    """M00-02 says so, soon, in one sentence."""
    (check,) = [check for check in child.record["checks"] if check["id"] == "M00-02"]
    assert check["outcome"] == "failed" and check["duration_s"] < REFUSED_WITHIN_S, child.text
    assert "\n" not in check["reason"] and all(word in check["reason"] for word in words), check["reason"]
    assert SECRET not in child.text


def test_etcd_and_nats_that_ask_who_is_there(run, own, start, inventory):
    """etcd with TLS that asks for certificates, and NATS with a token."""
    (equipment,) = run.equipment().values()
    name = secrets.token_hex(2)
    etcd = TlsEtcd(f"etcd-{name}", equipment.node, equipment.server("etcd"), own, asks=True)
    config = f'authorization {{ token: "{SECRET}" }}\n'
    nats = GuardedNats(f"nats-{name}", equipment.node, equipment.server("nats"), config=config)
    files = {"ETCD_AUTH_CA": own.ca, "ETCD_AUTH_CLIENT_CERT": own.cert, "ETCD_AUTH_CLIENT_KEY": own.key}
    # Dynamo takes what is in the files, not their names
    keys = [(name, Path(file).read_text()) for name, file in files.items()]
    with theirs(run, etcd, nats, extra_env=(*keys, ("NATS_AUTH_TOKEN", SECRET))) as deployment:
        files = {"etcd_ca_file": own.ca, "etcd_cert_file": own.cert, "etcd_key_file": own.key}
        site = attached(inventory, deployment, **files, nats_token_env="THE_TOKEN")
        served(start(*LOOKED_AT, "--inventory", site, THE_TOKEN=SECRET).ended(0))
        site = attached(inventory, deployment, **files)
        refused(start(LOOKED_AT[0], "--inventory", site).ended(1), "dynamo_nats_token_env")


def test_two_models_and_a_frontend_behind_a_proxy(run, own, start, inventory):
    (equipment,) = run.equipment().values()
    second = {"model_name": "second", "worker_args": ("--endpoint", f"dyn://{NAMESPACE}.second.generate")}
    with ExitStack() as stack:
        deployment = stack.enter_context(theirs(run, *etcd_and_nats(run), workers=({}, {}, second)))
        endpoint = InferenceEndpoint(deployment.frontend_url, "")
        wait_until(lambda: (len(listed_models(endpoint)) == 2 or None, "one"), Deadline(20, "two models"))
        served(start(*LOOKED_AT, "--inventory", attached(inventory, deployment, workers="2")).ended(0))
        (port,) = equipment.node.free_ports(1)
        options = (
            "--prefix",
            "/team",
            "--header",
            "X-Api-Key",
            "--key-env",
            "KEY",
            "--cert",
            own.cert,
            "--key",
            own.key,
        )
        stack.enter_context(proxied(deployment.frontend_url, port, *options))
        way = {
            "frontend_url": f"https://127.0.0.1:{port}/team",
            "frontend_ca_file": own.ca,
            "frontend_api_key_env": "THE_KEY",
            "frontend_api_key_header": "X-Api-Key",
        }
        site = attached(inventory, deployment, **way)
        refused(start(LOOKED_AT[0], "--inventory", site, THE_KEY=SECRET).ended(1), "dynamo_frontend_direct_url")
        site = attached(inventory, deployment, **way, frontend_direct_url=deployment.frontend_url)
        looked = served(start(*LOOKED_AT, "--inventory", site, THE_KEY=SECRET).ended(0))
        assert all(looked[each].startswith("passed") for each in ("M02-23", "M02-44")), looked
        site = attached(inventory, deployment, **way, frontend_direct_url="none")
        served(start(*LOOKED_AT, "--inventory", site, THE_KEY=SECRET).ended(INCOMPLETE), "M00-06", "M00-07")


def test_a_frontend_in_front_of_several_namespaces(run, start, inventory):
    workers = ({}, {"namespace": f"{NAMESPACE}_2"})
    prefix = ("--namespace-prefix", NAMESPACE)
    with theirs(run, *etcd_and_nats(run), workers=workers, registered=False, frontend_args=prefix) as found:
        ready = f"{found.frontend_url}/v1/models/{found.settings.model_name}/ready"
        both = lambda: (len(http.get(ready, 5).json().get("namespaces", ())) == 2 or None, "one")  # noqa: E731
        wait_until(both, Deadline(20, "workers of both namespaces"))
        site = attached(inventory, found)
        refused(start(LOOKED_AT[0], "--inventory", site).ended(1), f"{NAMESPACE}_2", "--namespace")


def test_without_nats(run, start, inventory):
    with theirs(run, *etcd_and_nats(run), event_plane="zmq") as deployment:
        site = attached(inventory, deployment, nats_url=None)
        # ZMQ publishers listen on every address, which is for M00-04 to say
        chosen = (*LOOKED_AT, "tests_by_module/module_05_messaging", "-k", "not listen_where")
        served(start(*chosen, "--inventory", site).ended(0), "M05-07")


def test_discovery_by_file(run, start, inventory, tmp_path):
    """An etcd is there as well, and nothing is registered in it."""
    etcd, nats = etcd_and_nats(run)
    by_file = (("DYN_DISCOVERY_BACKEND", "file"), ("DYN_FILE_KV", str(tmp_path / "discovery")))
    with theirs(run, etcd, nats, registered=False, extra_env=by_file) as deployment:
        site = attached(inventory, deployment)
        refused(start(LOOKED_AT[0], "--inventory", site).ended(1), "dynamo_discovery", "holds no key")
        site = attached(inventory, deployment, etcd_url=None, discovery="file")
        looked = served(start(*LOOKED_AT, "--inventory", site).ended(INCOMPLETE), "M00-03", "M04-01", "M06-01")
        assert looked["M00-02"].startswith("passed") and looked["M02-02"].startswith("passed")
