# SPDX-License-Identifier: Apache-2.0
"""Judges connections and requests by the rules of networks. Pure; the egress proxy asks.

`RuleTable` finds the rules for one destination in a time that does not grow with their number:
names by their labels, networks by the lengths of their prefixes. A rule that denies wins; among
those that allow, the most specific is named. `Judge` puts an environment's own rules under the
operator's maximum: both must allow. A name that is allowed says nothing about the addresses that it
leads to: `infra.net.policy` judges these, and lets a rule with a network open what is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Final, NamedTuple

from waggle.domain.network import PUBLIC_NETWORK, Default, Network
from waggle.domain.network.rules import Action, Block, Rule, is_odd, lies_below, may_lie_below

Address = IPv4Address | IPv6Address
WEB: Final = frozenset({80, 443})
SMTP: Final = 25
_NAT64: Final = IPv6Network("64:ff9b::/96")
NO_SETS: Final[Mapping[str, Sequence[Rule]]] = MappingProxyType({})


class Outcome(StrEnum):
    """What becomes of a connection.

    `UNDECIDED`: no rule for the name decides, but one for addresses may.
    """

    ALLOWED = "allowed"
    DENIED = "denied"
    ASK = "ask"
    UNDECIDED = "undecided"


class Seen(NamedTuple):
    """A request that the proxy sees. A connection whose requests it will see has no method yet."""

    method: str = ""
    path: str = ""
    is_unclear: bool = False
    """Whether its headers could have a server take it for a request of other method or path."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision. `code` is stable and machine-readable, `reason` is text, `rule` its text."""

    outcome: Outcome
    code: str
    reason: str
    rule: str = ""
    block: Block | None = None
    """The network of a rule that allows this very address, which then need not be public."""

    @property
    def is_denied(self) -> bool:
        """Whether there is nothing more to ask."""
        return self.outcome is Outcome.DENIED


class RuleTable:
    """The rules of one network, found by destination."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._names: dict[str, list[Rule]] = {}
        self._blocks: dict[tuple[int, int], dict[int, list[Rule]]] = {}
        self.has_blocks = False
        for rule in rules:
            if rule.block is None:
                self._names.setdefault(rule.name, []).append(rule)
            else:
                bits, length = rule.block.max_prefixlen, rule.block.prefixlen
                key = int(rule.block.network_address) >> bits - length
                self._blocks.setdefault((bits, length), {}).setdefault(key, []).append(rule)
                self.has_blocks |= rule.action is Action.ALLOW

    def for_name(self, name: str, port: int) -> Iterator[Rule]:
        """Yield the rules about a name in lower case without a dot at the end; specific first."""
        if self._names:
            rest = name
            yield from _with_port(self._names.get(name), port)
            while rest:
                _, _, rest = rest.partition(".")
                yield from _with_port(self._names.get(f"*.{rest}" if rest else "*"), port)

    def for_address(self, address: Address, port: int) -> Iterator[Rule]:
        """Yield the rules about an address; the longest prefix first."""
        number, bits = int(address), address.max_prefixlen
        for length in sorted((n for b, n in self._blocks if b == bits), reverse=True):
            yield from _with_port(self._blocks[bits, length].get(number >> bits - length), port)


def _with_port(rules: Sequence[Rule] | None, port: int) -> Iterator[Rule]:
    for rule in rules or ():
        if rule.has_port(port):
            yield rule


class _Found(NamedTuple):
    deny: Rule | None
    allow: Rule | None
    hidden: Rule | None
    """A rule about HTTP requests that the proxy cannot see here; one that denies, if there is."""


def _find(rules: Iterable[Rule], seen: Seen | None) -> _Found:
    allow = hidden = None
    for rule in rules:
        matches = _matches(rule, seen)
        if matches is None:
            if hidden is None or rule.action is Action.DENY:
                hidden = rule
        elif matches and rule.action is Action.DENY:
            return _Found(rule, None, None)
        elif matches:
            allow = allow or rule
    return _Found(None, allow, hidden)


def _matches(rule: Rule, seen: Seen | None) -> bool | None:
    """Whether a rule for the destination matches the request; None if that cannot be seen."""
    if not rule.needs_http:
        return True
    if seen is None:
        return None
    if not seen.method:  # its requests are judged one by one
        return rule.action is Action.ALLOW
    if seen.is_unclear:
        return rule.action is Action.DENY
    if rule.action is Action.DENY:  # whatever some server could take the request for
        has_method = not rule.methods or seen.method.upper() in rule.methods
        return has_method and (not rule.path or may_lie_below(seen.path, rule.path))
    if rule.methods and seen.method not in rule.methods:
        return False
    return not rule.path or (not is_odd(seen.path) and lies_below(seen.path, rule.path))


class _Side:
    """One network with the rules of its sets."""

    def __init__(
        self, network: Network, sets: Mapping[str, Sequence[Rule]], web: frozenset[int] | None
    ) -> None:
        """`web` are the ports that a destination on the internet has without a rule."""
        self._default = network.default
        self._web = web
        self._unknown = _unknown(network, sets)
        named = [rule for name in network.sets for rule in sets.get(name, ())]
        self._table = RuleTable([*network.rules, *named])

    def name(self, name: str, port: int, seen: Seen | None) -> Judgement:
        if self._unknown is not None:
            return self._unknown
        found = _find(self._table.for_name(name, port), seen)
        if (decided := _by_rule(found)) is not None:
            return decided
        if self._table.has_blocks:
            return Judgement(Outcome.UNDECIDED, "undecided", "")
        return self._by_default(port)

    def address(
        self, address: Address, port: int, seen: Seen | None, name: Judgement | None
    ) -> Judgement:
        if self._unknown is not None:
            return self._unknown
        decided = _by_rule(_find(self._table.for_address(address, port), seen))
        if (inner := _translated(address)) is not None:  # a rule that denies it means both
            inside = _by_rule(_find(self._table.for_address(inner, port), seen))
            decided = inside if inside is not None and inside.is_denied else decided
        if name is None or name.outcome is Outcome.UNDECIDED:
            return decided or self._by_default(port)
        if decided is None or name.is_denied:
            return name
        return decided if decided.is_denied else replace(name, block=decided.block)

    def _by_default(self, port: int) -> Judgement:
        if self._default is Default.NONE:
            return _denied("none", "the environment has no network")
        if self._default is Default.RULES:
            return _denied("no-rule", "no rule allows it")
        if self._default is Default.ASK:
            return Judgement(Outcome.ASK, "ask", "no rule decides about it")
        if self._web is not None and port not in self._web:
            return _denied("port", f"port {port} is not open without a rule for it")
        return Judgement(Outcome.ALLOWED, "allowed", "", str(self._default))


def _translated(address: Address) -> IPv4Address | None:
    """Return the IPv4 address to which a gateway leads from this one (NAT64)."""
    is_such = isinstance(address, IPv6Address) and address in _NAT64
    return IPv4Address(int(address) & 0xFFFF_FFFF) if is_such else None


def _unknown(network: Network, sets: Mapping[str, Sequence[Rule]]) -> Judgement | None:
    """Return what denies everything where named rules are missing: they might deny anything."""
    missing = [f"@{name}" for name in network.sets if name not in sets]
    if not missing:
        return None
    return _denied("unknown-rules", f"the operator's file no longer has {', '.join(missing[:5])}")


def _by_rule(found: _Found) -> Judgement | None:
    hidden = found.hidden
    if found.deny is not None:
        return _denied("rule", f"the rule '{found.deny}' denies it", found.deny)
    if hidden is not None and (found.allow is None or hidden.action is Action.DENY):
        why = f"the rule '{hidden}' is about HTTP requests, which TLS hides here"
        return _denied("hidden", why, hidden)
    if found.allow is None:
        return None
    rule = found.allow
    return Judgement(Outcome.ALLOWED, "allowed", "", str(rule), rule.block)


def _denied(code: str, reason: str, rule: Rule | None = None) -> Judgement:
    return Judgement(Outcome.DENIED, code, reason, "" if rule is None else str(rule))


@dataclass(frozen=True, slots=True)
class Judged:
    """What the environment's own network and the operator's maximum say."""

    own: Judgement
    maximum: Judgement

    @property
    def result(self) -> Judgement:
        """Both together: the stricter one, and the environment's own where they are the same."""
        if self.own.is_denied:
            return self.own
        if self.maximum.is_denied:
            reason = f"{self.maximum.reason}, in the operator's maximum (WAGGLE_MAX_NETWORK)"
            return replace(self.maximum, code="maximum", reason=reason)
        block = self.maximum.block if self.own.block is not None else None
        for outcome in (Outcome.UNDECIDED, Outcome.ASK):
            for judgement in (self.own, self.maximum):
                if judgement.outcome is outcome:
                    return replace(judgement, block=block)
        return replace(self.own, block=block)


class Judge:
    """Judges for one environment. Made anew when its network or the operator's rules change."""

    def __init__(
        self,
        own: Network,
        maximum: Network = PUBLIC_NETWORK,
        sets: Mapping[str, Sequence[Rule]] = NO_SETS,
        *,
        ports: frozenset[int] | None = None,
        web: frozenset[int] | None = WEB,
    ) -> None:
        """`ports` are those that rules may open, None all but 25; `web` those of `public`."""
        self._own = _Side(own, sets, web)
        self._maximum = _Side(maximum, sets, None)
        self._ports = ports

    def name(self, name: str, port: int, seen: Seen | None = None) -> Judged:
        """Judge a name in lower case without a dot at the end.

        `seen` is None for a connection whose requests the proxy cannot see.
        """
        if (closed := self._closed(port)) is not None:
            return closed
        sides = (self._own, self._maximum)
        return Judged(*(side.name(name, port, seen) for side in sides))

    def address(
        self,
        address: Address,
        port: int,
        seen: Seen | None = None,
        *,
        name: Judged | None = None,
    ) -> Judged:
        """Judge an address, to which a name led that was judged as `name`, if there is one."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if (closed := self._closed(port)) is not None:
            return closed
        return Judged(
            self._own.address(address, port, seen, name and name.own),
            self._maximum.address(address, port, seen, name and name.maximum),
        )

    def _closed(self, port: int) -> Judged | None:
        if port != SMTP if self._ports is None else port in self._ports:
            return None
        denied = _denied("closed-port", f"port {port} is not open to guests")
        return Judged(denied, denied)
