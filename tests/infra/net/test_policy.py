# SPDX-License-Identifier: Apache-2.0
"""Egress policy: the rules for addresses and ports, without any network."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.net.policy import (
    Address,
    AddressPolicy,
    embedded_in,
    is_own_address,
)

ANY = str(IPv4Address(0))


def not_local(address: Address) -> bool:
    return False


def policy(*cidrs: str, own: str | None = None) -> AddressPolicy:
    mine = None if own is None else ip_address(own)
    return AddressPolicy([ip_network(c) for c in cidrs], is_local=lambda a: a == mine)


PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e"]


@pytest.mark.parametrize("address", PUBLIC)
def test_ordinary_addresses_are_permitted(address: str) -> None:
    assert policy().permits(ip_address(address)).allowed


@pytest.mark.parametrize(
    "address,code",
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fd00:ec2::254", "cloud-metadata"),
        ("fd20:ce::254", "cloud-metadata"),
        ("192.0.0.192", "cloud-metadata"),
        ("fc00::1", "private"),
        ("fec0::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("168.63.129.16", "cloud-metadata"),
        ("100.100.100.200", "cloud-metadata"),
        ("100.64.0.1", "carrier-shared"),
        ("100.127.255.255", "carrier-shared"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        (ANY, "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("192.0.2.1", "documentation"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("192.0.0.1", "reserved"),
        ("192.88.99.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("198.19.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("100::1", "reserved"),
        ("2001:2::1", "reserved"),
        ("4000::1", "reserved"),
        ("5f00::1", "reserved"),
        ("200::1", "reserved"),
    ],
)
def test_all_other_addresses_are_denied_with_their_kind(address: str, code: str) -> None:
    verdict = policy().permits(ip_address(address))
    assert (verdict.allowed, verdict.code) == (False, code)
    assert address not in verdict.reason


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",  # mapped addresses have no business in DNS, whatever they map
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:a00:1::1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:808:808::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2606:4700::5efe:127.0.0.1",
        "2606:4700::200:5efe:10.1.2.3",
    ],
)
def test_an_address_that_embeds_a_denied_one_is_denied(address: str) -> None:
    assert not policy().permits(ip_address(address)).allowed


@pytest.mark.parametrize("address", ["64:ff9b::8.8.8.8"])
def test_translated_public_addresses_are_permitted(address: str) -> None:
    """A host that reaches IPv4 through NAT64 sees every IPv4 service like this."""
    assert policy().permits(ip_address(address)).allowed


@pytest.mark.parametrize("address", ["64:ff9b::8.8.8.8", "8.8.8.8"])
def test_the_hosts_own_public_address_is_denied_however_it_is_spelt(address: str) -> None:
    verdict = policy(own="8.8.8.8").permits(ip_address(address))
    assert (verdict.allowed, verdict.code) == (False, "host-address")


def test_zones_are_denied_even_when_listed() -> None:
    scoped = IPv6Address("fe80::1%eth0")
    assert policy("fe80::/10").permits(scoped).code == "scoped"
    assert policy().permits(IPv6Address("2606:4700::1%1")).code == "scoped"


def test_the_operators_list_opens_ranges() -> None:
    mirror = policy("10.1.0.0/16", "192.0.2.0/24", "fd00::/8")
    for address in ("10.1.2.3", "192.0.2.9", "fd12::1"):
        assert mirror.permits(ip_address(address)).allowed
    for address in ("10.2.0.1", "198.51.100.1", "fe80::1"):
        assert not mirror.permits(ip_address(address)).allowed


@pytest.mark.parametrize("wide", [("0.0.0.0/0", "::/0"), ("126.0.0.0/7",), ("169.0.0.0/8",)])
def test_a_wide_entry_opens_neither_loopback_nor_metadata(wide: tuple[str, ...]) -> None:
    broad = policy(*wide, own="10.0.0.5")
    for address in (
        *("127.0.0.1", "::1", "169.254.169.254", "168.63.129.16", "fe80::1"),
        *(ANY, "::", "224.0.0.1", "ff02::1"),
        *("10.0.0.5", "::ffff:127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.5"),
    ):
        assert not broad.permits(ip_address(address)).allowed, address


METADATA = {
    "AWS": ("fd00:ec2::254", "fd00:ec2::23", "fd00:ec2::253", "169.254.169.254", "169.254.170.2"),
    "Azure": ("168.63.129.16",),
    "Alibaba": ("100.100.100.200",),
    "Google": ("fd20:ce::254",),
    "Oracle": ("192.0.0.192", "fd00:c1::a9fe:a9fe"),
    "Scaleway": ("169.254.42.42", "fd00:42::42"),
    "Linode": ("fd00:a9fe:a9fe::1",),
    "OpenStack": ("fe80::a9fe:a9fe",),
}


def translated(inner: IPv4Address) -> list[IPv6Address]:
    """Return every form in which a tunnel or a translator may embed an IPv4 address."""
    bits = int(inner)
    high, low = bits >> 16, bits & 0xFFFF
    local = 0x64FF9B0001 << 80
    return [
        IPv6Address(bits),  # compatible
        IPv6Address(0xFFFF << 32 | bits),  # mapped
        IPv6Address(0xFFFF << 48 | bits),  # translated
        IPv6Address(0x64FF9B << 96 | bits),  # NAT64
        IPv6Address(local | bits),  # NAT64 for local use, with prefixes of 96, 48, 56 and 64 bits
        IPv6Address(local | high << 64 | low << 40),
        IPv6Address(local | bits >> 24 << 64 | (bits & 0xFF_FFFF) << 32),
        IPv6Address(local | bits << 24),
        IPv6Address(0x2002 << 112 | bits << 80 | 1),  # 6to4
        IPv6Address(0x2001 << 112 | bits << 64 | 0xF7F7_F7F7),  # Teredo, as the server
        IPv6Address(0x2001 << 112 | 0x08080808 << 64 | bits ^ 0xFFFF_FFFF),  # as the client
        IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | bits),  # ISATAP
    ]


@pytest.mark.parametrize("cloud", METADATA)
def test_with_everything_allowed_metadata_is_denied_in_every_form(cloud: str) -> None:
    broad = AddressPolicy([ip_network("0.0.0.0/0"), ip_network("::/0")], is_local=not_local)
    for address in map(ip_address, METADATA[cloud]):
        verdict = broad.permits(address)
        assert verdict.code in {"cloud-metadata", "link-local"}, address
        for outer in translated(address) if isinstance(address, IPv4Address) else ():
            assert broad.permits(outer).code in {"cloud-metadata", "link-local"}, outer
        assert policy(f"{address}/{address.max_prefixlen}").permits(address).allowed


@pytest.mark.parametrize("outer", translated(IPv4Address("8.8.8.8")))
def test_with_everything_allowed_no_form_is_denied_by_itself(outer: IPv6Address) -> None:
    broad = AddressPolicy([ip_network("0.0.0.0/0"), ip_network("::/0")], is_local=not_local)
    assert broad.permits(outer).allowed


def test_an_entry_over_several_metadata_ranges_counts_as_wide() -> None:
    for entry in ("fd00:42::/31", "fd00::/16", "168.63.129.16/31", "fc00::/7"):
        for address in ("fd00:42::42", "fd00:c1::1", "fd00:ec2::254", "168.63.129.16"):
            assert not policy(entry).permits(ip_address(address)).allowed
    assert policy("fd00:ec2::/32").permits(ip_address("fd00:ec2::254")).allowed


def test_a_narrow_entry_opens_loopback_and_metadata() -> None:
    narrow = policy("127.0.0.1/32", "169.254.169.254/32", "::1/128", "168.63.129.16/32")
    for address in ("127.0.0.1", "169.254.169.254", "::1", "168.63.129.16"):
        assert narrow.permits(ip_address(address)).allowed
    for address in ("127.0.0.2", "169.254.169.253", "::ffff:127.0.0.1"):
        assert not narrow.permits(ip_address(address)).allowed
    assert policy("127.0.0.0/8").permits(ip_address("127.9.9.9")).allowed


@pytest.mark.parametrize("own", ["10.0.0.5", "8.8.8.8"])
def test_the_hosts_own_address_needs_a_host_route(own: str) -> None:
    assert not policy("8.8.8.0/24", "10.0.0.0/8", own=own).permits(ip_address(own)).allowed
    assert policy(f"{own}/32", own=own).permits(ip_address(own)).allowed


def test_a_loopback_entry_applies_although_the_address_is_the_hosts() -> None:
    local = AddressPolicy([ip_network("127.0.0.0/8")], is_local=lambda _: True)
    assert local.permits(ip_address("127.0.0.1")).allowed


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_never_easier_to_reach_than_itself(inner: IPv4Address) -> None:
    rules = AddressPolicy(is_local=not_local)
    bits = int(inner)
    outer = [
        IPv6Address(bits),
        IPv6Address(0xFFFF << 32 | bits),
        IPv6Address(0x64FF9B << 96 | bits),
        IPv6Address(0x2002 << 112 | bits << 80 | 1),
        IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | bits),
        IPv6Address(0x2001_0000 << 96 | 0x08080808 << 64 | bits ^ 0xFFFF_FFFF),
    ]
    for address in outer[2:]:
        assert inner in embedded_in(address)
    if not rules.permits(inner).allowed:
        assert not any(rules.permits(address).allowed for address in outer)


@given(st.ip_addresses())
def test_no_address_that_python_calls_special_is_permitted(address: Address) -> None:
    if AddressPolicy(is_local=not_local).permits(address).allowed:
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_loopback
        assert not address.is_link_local
        assert (
            isinstance(address, IPv4Address)
            or address in IPv6Network("2000::/3")
            or (address in IPv6Network("64:ff9b::/96"))
        )


def test_the_host_knows_its_own_addresses() -> None:
    assert is_own_address(ip_address("127.0.0.1"))
    assert is_own_address(ip_address("127.7.7.7"))
    assert not is_own_address(ip_address("8.8.8.8"))
    assert not is_own_address(ip_address("2606:4700::1111"))


def test_an_address_that_cannot_be_checked_counts_as_the_hosts_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*_: object) -> socket.socket:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(socket, "socket", exhausted)
    assert is_own_address(ip_address("8.8.8.8"))
