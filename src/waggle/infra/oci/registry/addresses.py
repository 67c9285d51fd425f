# SPDX-License-Identifier: Apache-2.0
"""From where an address can be reached, and where a registry may therefore send us.

Called by `transport` for each connection that a registry, not the operator, asked for: a redirect
or a token service must not turn waggle into a way to this machine's or network's own services.
Pure. `waggle.infra.net` has its own, finer tables for guests.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


class Reach(StrEnum):
    """The smallest circle that an address belongs to."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    SPECIAL = "special"
    """Link-local (where clouds keep their metadata), multicast, reserved, tunnels: never needed."""


ANYWHERE = frozenset(Reach)
_SHARED = ip_network("100.64.0.0/10")
_METADATA = (IPv4Address("168.63.129.16"), IPv4Address("100.100.100.200"))
_TUNNELS = tuple(
    ip_network(block) for block in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)
_UNIQUE_LOCAL = ip_network("fc00::/7")
_PRIVATE = tuple(ip_network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))


def reach_of(text: str) -> Reach:
    """Classify an IP address; what is in doubt is SPECIAL. Text that is none is SPECIAL, too."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return Reach.SPECIAL
    if isinstance(address, IPv6Address):
        return _reach_v6(address)
    return _reach_v4(address)


def _reach_v4(address: IPv4Address) -> Reach:
    if address in _METADATA:
        return Reach.SPECIAL
    if address.is_loopback:
        return Reach.LOOPBACK
    if address in _SHARED or any(address in block for block in _PRIVATE):
        return Reach.PRIVATE
    ordinary = address.is_global and not address.is_multicast and not address.is_reserved
    return Reach.PUBLIC if ordinary else Reach.SPECIAL


def _reach_v6(address: IPv6Address) -> Reach:
    if address.ipv4_mapped is not None:
        return _reach_v4(address.ipv4_mapped)
    if address.is_loopback:
        return Reach.LOOPBACK
    if address in _UNIQUE_LOCAL:
        return Reach.PRIVATE
    if any(address in block for block in _TUNNELS) or address.is_multicast or address.is_reserved:
        return Reach.SPECIAL
    return Reach.PUBLIC if address.is_global and not address.is_site_local else Reach.SPECIAL


def reachable_from(peer: Reach, trusted: bool) -> frozenset[Reach]:
    """Where a registry at `peer` may send us; `trusted` when the operator trusts its network.

    Only to circles that it is in itself: from the public internet to nothing but that.
    """
    allowed = {Reach.PUBLIC}
    if trusted or peer in {Reach.PRIVATE, Reach.LOOPBACK}:
        allowed.add(Reach.PRIVATE)
    if trusted or peer is Reach.LOOPBACK:
        allowed.add(Reach.LOOPBACK)
    return frozenset(allowed)
