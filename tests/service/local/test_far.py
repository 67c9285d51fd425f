# SPDX-License-Identifier: Apache-2.0
"""Which addresses programs of a guest do not find unreachable."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.infra.rootfs.machine_disks import MAX_FAR, NEVER_FAR, network_records
from waggle.service.local.far import far_records


def words(records: dict[str, bytes]) -> list[str]:
    return records["network"].decode().split()


def test_without_a_network_nothing_is_far() -> None:
    assert far_records(NO_NETWORK, [ip_network("10.0.0.0/8")]) == {"network": b""}


def test_all_but_special_addresses_are_far() -> None:
    assert words(far_records(PUBLIC_NETWORK)) == ["0.0.0.0/0", *(f"-{n}" for n in NEVER_FAR)]


def test_ranges_of_the_operator_and_of_rules_that_allow_are_far() -> None:
    network = parse_network(["10.1.0.0/16:5432", "deny 10.2.0.0/16", "[fd00::/8]:80", "a.test"])
    operators = [ip_network("192.168.7.0/24"), ip_network("fd00::/8")]
    far = words(far_records(network, operators))
    assert far[1 + len(NEVER_FAR) :] == ["192.168.7.0/24", "10.1.0.0/16"]


def test_a_record_has_no_more_ranges_than_the_kit_takes() -> None:
    many = [IPv4Network(f"10.{n}.0.0/16") for n in range(200)]
    far = words(network_records(is_there=True, also=[*many, *many]))
    assert len(far) == 1 + len(NEVER_FAR) + MAX_FAR <= 64
