# SPDX-License-Identifier: Apache-2.0
"""What the egress proxy decided about one connection, and how that is said. Pure.

The proxy remembers decisions; a diagnosis, get_environment and the logs show them. The guest chose
host and port, so both were made printable before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from waggle.domain.errors import InvalidArgument
from waggle.domain.network import Default, Network
from waggle.domain.network.rules import parse_rule

ALLOWED: Final = "allowed"
SAID_NO_CODE: Final = "said-no"
"""The code of a refusal by a person."""
ENVIRONMENT: Final = "ENV"
"""Stands for an environment where its name is not known."""
_SHOWN: Final = 6
LIMITS: Final = {
    "bytes-used-up": "A new environment has bytes of its own; the operator of the server can "
    "change that with WAGGLE_EGRESS_MAX_MB.",
    "owner-bytes-used-up": "The operator of the server can change that with "
    "WAGGLE_EGRESS_OWNER_MB.",
    "too-many-names": "Names that it used just before are free: look up fewer at once, or try "
    "again in a second.",
}
"""The next step by the code of a limit."""
_STEPS: Final = {
    **LIMITS,
    "closed-port": "The operator of the server opens ports with WAGGLE_EGRESS_PORTS.",
    "maximum": "Only the operator of the server can allow that.",
    "none": "That is for good: create another environment with a network.",
    "not-verified": "The operator can add an authority to WAGGLE_CA_BUNDLE.",
    "unknown-rules": "Until its network is set without that name, everything is refused.",
    "other-name": "Connect to the host that the TLS handshake is for, with its name in SNI.",
}
_REASONS_WITH_STEP: Final = ("secret-", "tls-")
_ADDED: Final = 3
"""The most rules that a text proposes at once."""
_LONG: Final = 100
"""Characters of a name that a text shows, and of further rules that it proposes."""
_BY_RULES: Final = ("port", "no-rule", "ask", "hidden")
_OF_ADDRESSES: Final = frozenset(
    {
        *("private", "loopback", "link-local", "carrier-shared", "cloud-metadata"),
        *("documentation", "reserved", "host-address"),
    }
)
"""Codes of addresses that are not public; others than these no operator can allow."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision. `code` is stable and machine-readable; `reason` is prose, without an address.

    `rule` is the text of the rule that decided, empty if none did. `address` is where an allowed
    connection leads; it is empty for a denied one, which must not tell what a name resolves to.
    """

    host: str
    port: int
    code: str
    reason: str = ""
    rule: str = ""
    address: str = ""
    is_open: bool = False
    """Whether the operator allows its address, so that a rule of the environment opens it."""

    @property
    def is_allowed(self) -> bool:
        """Whether the connection was made."""
        return self.code == ALLOWED

    @property
    def place(self) -> str:
        """The destination as `host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        return f"{self.place} was refused: {self.reason}."


@dataclass(frozen=True, slots=True)
class Ended:
    """An allowed connection that has ended. Bytes are those sent to the server and received."""

    decision: Decision
    seconds: float
    sent: int
    received: int


def summary(refused: Sequence[Decision], shown: int = 3) -> str:
    """Say which connections were refused and why, the first ones by name; `refused` is not empty.

    Equal ones are named once.
    """
    unique = list(dict.fromkeys(refused))
    first, rest = unique[:shown], len(unique) - shown
    more = f" and {rest} more" if rest > 0 else ""
    if len({one.reason for one in unique}) == 1:
        were = "was" if len(unique) == 1 else "were"
        places = ", ".join(_short(one.place) for one in first)
        return f"{places}{more} {were} refused: {_plain(first[0].reason)}."
    listed = ", ".join(f"{_short(one.place)} ({_plain(one.reason)})" for one in first)
    return f"{listed}{more} were refused."


def _plain(reason: str) -> str:
    """Return a reason without a dot at its end, which those about secrets have."""
    return reason.removesuffix(".")


def _short(place: str) -> str:
    """Return a place as it is, or its end, which says more than its beginning."""
    return place if len(place) <= _LONG else f"...{place[-_LONG:]}"


def reach(network: Network) -> str:
    """Say in a sentence what a network allows, shortened."""
    allowed = [item for item in network.items if not item.startswith("deny ")]
    named = [item for item in allowed if item not in tuple(Default)]
    shown = ", ".join(named[:_SHOWN])
    if len(named) > _SHOWN:
        shown += f" and {len(named) - _SHOWN} more"
    if network.default is Default.PUBLIC:
        shown = f"the public internet on ports 80 and 443{', ' * bool(named)}{shown}"
    if network.is_none:
        return "This environment has no network."
    if network.default is Default.ASK:
        return f"Allowed: {shown}{', and ' * bool(named)}what a person allows when asked."
    return f"Allowed: {shown or 'nothing'}."


def next_step(decision: Decision, network: Network) -> str:
    """Say to a program in the guest what can be done about a refusal; names no tool."""
    return _steps([decision], network, lambda rules: f"A person opens it with {_command(rules)}.")


def next_steps(refused: Sequence[Decision], network: Network, environment: str) -> str:
    """Say to a client what it, or else a person or the operator, can do; `refused` is not empty.

    The part about set_network is a clause of its own, for clients without that tool.
    """

    def ways(rules: Sequence[str]) -> str:
        listed = ", ".join(f'"{rule}"' for rule in rules)
        command = _command(rules, environment)
        return f"set_network with allow [{listed}] opens it; a person opens it with {command}."

    return _steps(refused, network, ways)


_WAYS: Final = re.compile(
    r"(?:set_network with allow \[.*?\] opens it; a|[Aa]) person opens it with "
    r"`waggle env network \S+?((?: --allow [^\s`]+)+)`\."
)


def in_another(steps: str, network: Network, run: Callable[[Sequence[str]], str]) -> str:
    """Return what `next_steps` says for an environment that is gone: how another can do it.

    `run` says how to run the program again with a network of these items. Also for steps from which
    the clause about set_network was taken.
    """

    def again(found: re.Match[str]) -> str:
        rules = found[1].split(" --allow ")[1:]
        try:
            return run(network.with_rules(*map(parse_rule, rules)).items)
        except InvalidArgument:
            return run(rules)

    return _WAYS.sub(again, steps)


def _command(rules: Sequence[str], environment: str = ENVIRONMENT) -> str:
    return f"`waggle env network {environment}{''.join(f' --allow {rule}' for rule in rules)}`"


def _steps(
    refused: Sequence[Decision], network: Network, ways: Callable[[Sequence[str]], str]
) -> str:
    unique = list(dict.fromkeys(refused))
    wanted = list(dict.fromkeys(rule_for(one) for one in unique if _can_be_allowed(one, network)))
    others = [one for one in unique if not _can_be_allowed(one, network)]
    proposed = [*wanted[:1], *(rule for rule in wanted[1:_ADDED] if len(rule) <= _LONG)]
    steps = [f"{reach(network)} {ways(proposed)}"] if wanted else []
    return " ".join([*steps, *(_other(one, network) for one in others[:1])]).strip()


def _other(decision: Decision, network: Network) -> str:
    """Say why a client cannot allow it."""
    code = decision.code
    if code == SAID_NO_CODE:
        return f"{reach(network)} Do not try again; find another way, or speak with the person."
    if _is_denial(decision) and decision.rule in network.items:
        return "A rule that denies wins over those that allow, until the network is set without it."
    if code in _STEPS:
        return _STEPS[code]
    if code.startswith(_REASONS_WITH_STEP):
        return ""  # the reason says it
    if _is_denial(decision):
        return _STEPS["maximum"]
    if code in _OF_ADDRESSES and decision.is_open:
        return (
            "The operator allows its address: a rule of this environment that has the address, "
            "such as 10.1.0.0/16:5432, opens it, and none that has a name."
        )
    if code in _OF_ADDRESSES or _is_special(decision.host):
        return (
            "Such addresses are the operator's to allow: with WAGGLE_EGRESS_ALLOW_CIDRS, or with "
            "WAGGLE_MAX_NETWORK and a rule of this environment."
        )
    return reach(network)


def _can_be_allowed(decision: Decision, network: Network) -> bool:
    """Whether a client may allow it by a rule, as far as can be seen here."""
    if decision.code == "rule":
        return decision.rule in network.items and decision.rule == f"deny {rule_for(decision)}"
    if _is_denial(decision):  # of requests, which a rule for the host leaves in force
        return False
    if _is_special(decision.host):
        return decision.is_open and (decision.code in _BY_RULES or decision.code in _OF_ADDRESSES)
    return decision.code in _BY_RULES


def _is_denial(decision: Decision) -> bool:
    """Whether a rule that denies decided, also one whose requests are hidden."""
    return decision.code == "rule" or (
        decision.code == "hidden" and decision.rule.startswith("deny ")
    )


def _is_special(host: str) -> bool:
    """Whether it is an address that is not public, which a client alone cannot open."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


def rule_for(decision: Decision) -> str:
    """Return the text of the rule that would allow it."""
    return decision.place.removesuffix(":443").removesuffix(":80")
