"""A deployment whose data address is IPv6: real etcd, NATS, frontend and workers at ::1."""

import pytest

from plugins.tests.children import installed, inventory, start, tree

pytestmark = pytest.mark.slow

__all__ = ["installed", "inventory", "start", "tree"]

# what reads addresses: components, registration, and each client of the suite
PARTS = (
    "tests_by_module/module_00_architecture",
    "tests_by_module/module_04_service_discovery/test_registration.py",
    "tests_by_module/module_05_messaging/test_nats_server.py",
)


def test_checks_pass_at_an_ipv6_address(start, inventory):
    site = inventory(dynamo_data_address='"0:0:0:0:0:0:0:1"', dynamo_jetstream_runtime="~")
    record = start(*PARTS, "--inventory", site).ended(0).record
    outcomes = {check["id"]: check["outcome"] for check in record["checks"]}
    for check in ("M00-02", "M00-04", "M00-06", "M04-01", "M04-12", "M04-13", "M05-05"):
        assert outcomes[check] == "passed", check
