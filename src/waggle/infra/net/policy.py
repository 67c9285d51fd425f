# SPDX-License-Identifier: Apache-2.0
"""Which addresses and ports a guest with network policy `public` may reach.

Called by `dial` for every address that a name resolved to, just before that very address is
connected to. Decides only; the one look at the machine (is this address mine?) is injected.

The rules for an address:

- Ordinary global unicast is permitted. Everything else is denied, and so is an IPv6 address that
  carries a denied IPv4 address inside (mapped, 6to4, NAT64, Teredo, ISATAP, ...).
- `allow_cidrs` (WAGGLE_EGRESS_ALLOW_CIDRS) overrides that for what the operator lists, with three
  exceptions, so that a wide entry such as `0.0.0.0/0` does not open what nobody meant:
  - loopback, link-local and cloud-metadata addresses need an entry that lies wholly inside such
    a range (`127.0.0.1/32`, `169.254.169.254/32`);
  - an address of this machine, public or not, needs the host route of that address (`/32`,
    `/128`), or an entry wholly inside loopback;
  - unspecified and multicast addresses and addresses with a zone (`fe80::1%eth0`) are never
    permitted.

Not knowable here: a public address that a router elsewhere translates back to this machine, and
the prefix of a NAT64 gateway that uses neither of the standard ones.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from waggle.infra.net.ranges import Address, Kind, Network, embedded_in, kind_of, lies_in

DEFAULT_PORTS = frozenset({80, 443})
SMTP = 25


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` is stable and machine-readable; `reason` is for people and names no address."""

    allowed: bool
    code: str
    reason: str


ALLOWED = Verdict(True, "allowed", "it is allowed")
_NEVER = frozenset({Kind.UNSPECIFIED, Kind.MULTICAST})
_ONLY_FROM_INSIDE = frozenset({Kind.LOOPBACK, Kind.LINK_LOCAL, Kind.METADATA})


class AddressPolicy:
    """The address rules above, for one list of CIDRs."""

    def __init__(
        self,
        allow_cidrs: Iterable[Network] = (),
        *,
        is_local: Callable[[Address], bool] | None = None,
    ) -> None:
        """Keep the operator's list.

        `is_local` says whether an address is one of this machine's own. It is asked anew every
        time, because addresses come and go.
        """
        self._allow = tuple(allow_cidrs)
        self._is_local = is_own_address if is_local is None else is_local

    def permits(self, address: Address) -> Verdict:
        """Judge `address` and every IPv4 address inside it; the first denial is the verdict."""
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return Verdict(False, "scoped", "it is an address with a zone")
        verdict = self._judge(address)
        for inner in embedded_in(address):
            if not verdict.allowed:
                break
            verdict = self._judge(inner)
        return verdict

    def _judge(self, address: Address) -> Verdict:
        kind = kind_of(address)
        listed = [block for block in self._allow if address in block]
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


def permits_port(port: int, allowed: frozenset[int] | None) -> Verdict:
    """`allowed` as the operator gave it; None means every port but 25 (mail)."""
    if port != SMTP if allowed is None else port in allowed:
        return ALLOWED
    return Verdict(False, "port", f"port {port} is not open to guests")


def is_own_address(address: Address) -> bool:
    """Whether this machine would answer on `address`, found by binding a UDP socket to it.

    Anything unexpected counts as yes. So does every address while `ip_nonlocal_bind` is set in
    the kernel, which denies all egress.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
