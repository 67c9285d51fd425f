# SPDX-License-Identifier: Apache-2.0
"""Whether a default network goes beyond the operator's maximum, and what it is narrowed to. Pure.

Used by `waggle.config` at the start. Connections are judged by both networks in any case; this only
finds defaults that promise what the maximum then refuses.
"""

from __future__ import annotations

from waggle.domain.network import Default, Network
from waggle.domain.network.rules import Action, Rule


def beyond(network: Network, maximum: Network) -> list[str]:
    """Return the items of a network that the maximum surely refuses.

    What a person may still allow, and names of rules, whose rules are not known here, are not.
    """
    if network.is_none or maximum.default in (Default.PUBLIC, Default.ASK):
        return []
    allowed = [rule for rule in network.rules if rule.action is Action.ALLOW]
    if maximum.is_none:
        named = [f"@{name}" for name in network.sets]
        first = [] if network.default is Default.RULES else [str(network.default)]
        return [*first, *named, *map(str, allowed)]
    tops = [rule for rule in maximum.rules if rule.action is Action.ALLOW]
    if any(_is_all(rule) for rule in tops):
        return []
    first = [str(network.default)] if network.default is Default.PUBLIC else []
    if maximum.sets:
        return first
    return [*first, *(str(rule) for rule in allowed if not any(_meets(rule, top) for top in tops))]


def narrowed(network: Network, maximum: Network) -> Network:
    """Return the maximum where the network goes beyond it, else the network."""
    return maximum if beyond(network, maximum) else network


def _is_all(rule: Rule) -> bool:
    return rule.name == "*" or (rule.block is not None and not rule.block.prefixlen)


def _meets(rule: Rule, top: Rule) -> bool:
    """Whether some connection could match both, as far as names say."""
    if not any(
        low <= high2 and low2 <= high for low, high in rule.ports for low2, high2 in top.ports
    ):
        return False
    if rule.block is not None and top.block is not None:
        return rule.block.version == top.block.version and rule.block.overlaps(top.block)
    if rule.block is not None or top.block is not None:
        return True  # a name may lead to an address
    return _covers(rule.name, top.name) or _covers(top.name, rule.name)


def _covers(pattern: str, name: str) -> bool:
    return pattern in (name, "*") or (pattern.startswith("*.") and name.endswith(pattern[1:]))
