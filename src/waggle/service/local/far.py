# SPDX-License-Identifier: Apache-2.0
"""Which addresses are far for the programs of a guest: connections to these go to the proxy. Pure.

The proxy alone decides what is reached. This is only about addresses that programs otherwise find
unreachable at once, such as private ones: rules and the operator may name some.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from waggle.domain.network import Network
from waggle.domain.network.rules import Action
from waggle.infra.rootfs.machine_disks import network_records

Blocks = Iterable[IPv4Network | IPv6Network]


def far_records(network: Network, operators: Blocks = ()) -> dict[str, bytes]:
    """Return the identity records about the network; `operators` are ranges that any guest may use.

    Rules of named sets are not seen here: a literal private address that only these allow is
    unreachable, except by name or through the proxy variables.
    """
    allowed = (rule.block for rule in network.rules if rule.action is Action.ALLOW)
    blocks = [block for block in (*operators, *allowed) if isinstance(block, IPv4Network)]
    return network_records(is_there=not network.is_none, also=blocks)
