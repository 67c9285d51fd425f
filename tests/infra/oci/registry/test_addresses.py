# SPDX-License-Identifier: Apache-2.0
"""The reach of addresses, and the addresses to which a registry may redirect."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.oci.registry.options import Reach, reach_of, reachable_from

KNOWN = {
    Reach.PUBLIC: "8.8.8.8 2606:4700::1111 ::ffff:8.8.8.8",
    Reach.PRIVATE: "10.1.2.3 172.31.0.1 192.168.0.1 100.64.0.1 fd00::1 ::ffff:10.0.0.1",
    Reach.LOOPBACK: "127.0.0.1 127.9.9.9 ::1 ::ffff:127.0.0.1",
    Reach.SPECIAL: (
        "169.254.169.254 0.0.0.0 :: fe80::1 fe80::1%eth0 224.0.0.1 255.255.255.255 240.0.0.1"
        " 100.100.100.200 168.63.129.16 192.0.2.1 2001:db8::1 64:ff9b::7f00:1 2002:7f00:1::"
        " ::ffff:169.254.169.254 fec0::1 ff02::1 ::127.0.0.1 localhost 127.1 x"
    ),
}


@pytest.mark.parametrize(
    "text, reach", [(text, reach) for reach, texts in KNOWN.items() for text in texts.split()]
)
def test_the_reach_of_every_kind_of_address_is_known(text: str, reach: Reach) -> None:
    assert reach_of(text) is reach


@given(st.ip_addresses())
def test_no_public_address_is_private_or_local(
    address: IPv4Address | IPv6Address,
) -> None:
    if reach_of(str(address)) is Reach.PUBLIC:
        assert not address.is_private
        assert not address.is_loopback
        assert not address.is_link_local
        assert not address.is_multicast


def test_a_registry_may_redirect_only_to_networks_that_it_is_in() -> None:
    assert reachable_from(Reach.PUBLIC, trusted=False) == {Reach.PUBLIC}
    assert reachable_from(Reach.SPECIAL, trusted=False) == {Reach.PUBLIC}
    assert reachable_from(Reach.PRIVATE, trusted=False) == {Reach.PUBLIC, Reach.PRIVATE}
    everything = {Reach.PUBLIC, Reach.PRIVATE, Reach.LOOPBACK}
    assert reachable_from(Reach.LOOPBACK, trusted=False) == everything
    assert reachable_from(Reach.PUBLIC, trusted=True) == everything
