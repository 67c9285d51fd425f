# SPDX-License-Identifier: Apache-2.0
"""The addresses and ports that a guest with network policy `public` may reach.

Called by `dial` for every address that a name resolved to, just before it connects to that address.
Decides only: the check whether an address is this host's own is injected. `AddressPolicy` has the
rules. It cannot know a public address that a router elsewhere translates back to this host, or the
prefix of a NAT64 gateway that uses neither of the standard ones. The tables follow the IANA
special-purpose registries and are written out, because the answers of `ipaddress.is_global` change
between Python releases.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Kind(StrEnum):
    """The reason why an address is not an ordinary address of the public internet."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    SHARED = "carrier-shared"
    METADATA = "cloud-metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    DOCUMENTATION = "documentation"
    RESERVED = "reserved"


def _table(*rows: tuple[Kind, str]) -> tuple[tuple[Kind, Network], ...]:
    return tuple((kind, ip_network(block)) for kind, blocks in rows for block in blocks.split())


# The first row that matches gives the kind.
_V4 = _table(
    (Kind.UNSPECIFIED, "0.0.0.0/8"),
    (Kind.LOOPBACK, "127.0.0.0/8"),
    (Kind.PRIVATE, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"),
    # Services of clouds outside the link-local range, which contains 169.254.169.254: Azure,
    # Alibaba, Oracle.
    (Kind.METADATA, "168.63.129.16/32 100.100.100.200/32 192.0.0.192/32"),
    (Kind.LINK_LOCAL, "169.254.0.0/16"),
    (Kind.SHARED, "100.64.0.0/10"),
    (Kind.DOCUMENTATION, "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24"),
    (Kind.MULTICAST, "224.0.0.0/4"),
    # Protocol assignments, 6to4 relays, benchmarking, future use and broadcast.
    (Kind.RESERVED, "192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 240.0.0.0/4"),
)
_NAT64 = ip_network("64:ff9b::/96")
_V6 = _table(
    (Kind.UNSPECIFIED, "::/128"),
    (Kind.LOOPBACK, "::1/128"),
    # The same over IPv6, inside the private range: AWS, Oracle, Google, Scaleway, Linode. Whole
    # blocks, because a cloud's name, time and credential services lie beside the known address.
    (Kind.METADATA, "fd00:ec2::/32 fd00:c1::/32 fd20:ce::/32 fd00:42::/32 fd00:a9fe:a9fe::/48"),
    (Kind.PRIVATE, "fc00::/7 fec0::/10 64:ff9b:1::/48"),
    (Kind.LINK_LOCAL, "fe80::/10"),
    (Kind.MULTICAST, "ff00::/8"),
    (Kind.DOCUMENTATION, "2001:db8::/32 3fff::/20"),
    # Protocol assignments (Teredo, ORCHID, benchmarking, ...), 6to4 (deprecated by RFC 7526),
    # segment routing, discard-only.
    (Kind.RESERVED, "2001::/23 2002::/16 5f00::/16 100::/63"),
)
_GLOBAL_V6 = ip_network("2000::/3")


def kind_of(address: Address) -> Kind | None:
    """Return the special kind of `address` itself, or None for ordinary global unicast."""
    is_v4 = isinstance(address, IPv4Address)
    for kind, block in _V4 if is_v4 else _V6:
        if address in block:
            return kind
    if address in _NAT64:  # Python calls it reserved, but the IPv4 address inside counts
        return None
    return None if is_v4 or address in _GLOBAL_V6 else Kind.RESERVED


def lies_in(kind: Kind, block: Network) -> bool:
    """Whether all of `block` lies inside one range of that kind."""
    table = _V4 if isinstance(block, IPv4Network) else _V6
    rows = [row for name, row in table if name is kind]
    return any(block[0] in row and block[-1] in row for row in rows)


# Prefix -> the right shift in bits that puts the IPv4 address into the low 32 bits.
_EMBEDDINGS = tuple(
    (ip_network(block), shift)
    for block, shift in (
        ("::/96", 0),  # IPv4-compatible
        ("::ffff:0:0/96", 0),  # IPv4-mapped
        ("::ffff:0:0:0/96", 0),  # IPv4-translated
        ("64:ff9b::/96", 0),  # NAT64, well-known prefix
        ("2002::/16", 80),  # 6to4
        ("2001::/32", 64),  # Teredo: the server
    )
)
_TEREDO = ip_network("2001::/32")
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
_PREFIX_LENGTHS = (48, 56, 64, 96)
"""Possible lengths of a gateway's prefix in the local-use block: RFC 6052, section 2.2."""
_LOW_32 = 0xFFFF_FFFF
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def embedded_in(address: Address) -> tuple[IPv4Address, ...]:
    """Return every IPv4 address that a translator or a tunnel may find inside `address`."""
    if isinstance(address, IPv4Address):
        return ()
    bits = int(address)
    if bits in (0, 1):  # :: and ::1 are themselves, not IPv4-compatible addresses
        return ()
    found = [IPv4Address(bits >> shift & _LOW_32) for net, shift in _EMBEDDINGS if address in net]
    if address in _TEREDO:
        found.append(IPv4Address(~bits & _LOW_32))  # the client, kept inverted
    if address in _LOCAL_NAT64:
        found += _read_with_any_prefix(bits)
    if bits >> 32 & _LOW_32 in _ISATAP:
        found.append(IPv4Address(bits & _LOW_32))
    return tuple(found)


def _read_with_any_prefix(bits: int) -> list[IPv4Address]:
    """Read the address with every prefix length; one that gives 0.0.0.0/8 is not the right one."""
    without_u = bits >> 64 << 56 | bits & (1 << 56) - 1  # the 65th to 72nd belong to no address
    found = [bits if length == 96 else without_u >> 88 - length for length in _PREFIX_LENGTHS]
    return [IPv4Address(value & _LOW_32) for value in found if value & 0xFF00_0000]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision. `code` is stable and machine-readable; `reason` is text without an address."""

    allowed: bool
    code: str
    reason: str


ALLOWED = Verdict(True, "allowed", "it is allowed")
_NEVER = frozenset({Kind.UNSPECIFIED, Kind.MULTICAST})
_ONLY_FROM_INSIDE = frozenset({Kind.LOOPBACK, Kind.LINK_LOCAL, Kind.METADATA})


class AddressPolicy:
    """The rules for addresses, for one list of CIDRs.

    Ordinary global unicast is permitted. Everything else is denied, and so is an IPv6 address that
    carries a denied IPv4 address inside (mapped, 6to4, NAT64, Teredo, ISATAP, ...). The operator's
    entries (WAGGLE_EGRESS_ALLOW_CIDRS) override that, with three exceptions, so that a wide entry
    such as `0.0.0.0/0` opens nothing by accident:

    - Loopback, link-local and cloud-metadata addresses need an entry that lies wholly inside such
      a range (`127.0.0.1/32`, `169.254.169.254/32`).
    - An address of this host, public or not, needs the host route of that address (`/32`, `/128`),
      or an entry wholly inside loopback.
    - Unspecified and multicast addresses and addresses with a zone (`fe80::1%eth0`) are never
      permitted.
    """

    def __init__(
        self,
        allow_cidrs: Iterable[Network] = (),
        *,
        is_local: Callable[[Address], bool] | None = None,
    ) -> None:
        """Keep the operator's list.

        `is_local` returns whether an address belongs to this host. It is called every time, because
        addresses come and go.
        """
        self._allow = tuple(allow_cidrs)
        self._is_local = is_own_address if is_local is None else is_local

    def permits(self, address: Address, also: Network | None = None) -> Verdict:
        """Judge `address` and every IPv4 address inside it; the first denial is the verdict.

        `also` is one more entry of the list, from a rule that the operator has for this address.
        """
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return Verdict(False, "scoped", "it is an address with a zone")
        verdict = self._judge(address, also)
        for inner in embedded_in(address):
            if not verdict.allowed:
                break
            verdict = self._judge(inner, also)
        return verdict

    def _judge(self, address: Address, also: Network | None) -> Verdict:
        kind = kind_of(address)
        entries = self._allow if also is None else (*self._allow, also)
        listed = [block for block in entries if address in block]
        if kind is not None and (kind in _NEVER or not _overrides(kind, listed)):
            return Verdict(False, kind.value, f"it is a {kind.value} address")
        named = any(block.prefixlen == block.max_prefixlen for block in listed)
        if kind is not Kind.LOOPBACK and not named and self._is_local(address):
            return Verdict(False, "host-address", "it is an address of the host itself")
        return ALLOWED


def _overrides(kind: Kind, listed: list[Network]) -> bool:
    if kind in _ONLY_FROM_INSIDE:
        return any(lies_in(kind, block) for block in listed)
    return bool(listed)


def is_own_address(address: Address) -> bool:
    """Whether this host would answer on `address`, found by binding a UDP socket to it.

    An unexpected error counts as yes. So does every address while `ip_nonlocal_bind` is set in
    the kernel, which denies all egress.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
