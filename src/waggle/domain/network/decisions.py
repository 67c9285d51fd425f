# SPDX-License-Identifier: Apache-2.0
"""What the egress proxy decided about one connection, and how that is said. Pure.

The proxy remembers decisions; a diagnosis, get_environment and the logs show them. The guest chose
host and port, so both were made printable before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from waggle.domain.network import Default, Network

ALLOWED: Final = "allowed"
SAID_NO_CODE: Final = "said-no"
"""The code of a refusal by a person."""
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


def reach(network: Network) -> str:
    """Say in a sentence what a network allows, shortened."""
    allowed = [item for item in network.items if not item.startswith("deny ")]
    named = [item for item in allowed if item not in tuple(Default)]
    shown = ", ".join(named[:_SHOWN])
    if len(named) > _SHOWN:
        shown += f" and {len(named) - _SHOWN} more"
    if network.default is Default.PUBLIC:
        return "This environment reaches the public internet on ports 80 and 443" + (
            f", and {shown}." if named else "."
        )
    if network.default is Default.NONE:
        return "This environment has no network."
    if network.default is Default.ASK:
        known = f"reaches {shown}, and asks a person about the rest" if named else "asks a person"
        return f"This environment {known}."
    return f"This environment reaches {shown}." if named else "This environment reaches nothing."


def next_step(decision: Decision, network: Network) -> str:
    """Say what a client, or else the operator, can do about a refusal."""
    if decision.code == SAID_NO_CODE:
        return f"{reach(network)} Do not try again; find another way, or speak with the person."
    if decision.code in ("port", "no-rule", "ask", "hidden") or (
        decision.code == "rule" and decision.rule in network.items
    ):
        word = rule_for(decision)
        return (
            f"{reach(network)} To reach it, allow it with set_network (allow: {word}) or "
            f"`waggle env network ENV --allow {word}`; the operator's maximum still holds."
        )
    if decision.code == "closed-port":
        return f"{reach(network)} The operator of the server opens ports with WAGGLE_EGRESS_PORTS."
    if decision.code in LIMITS:
        return LIMITS[decision.code]
    if decision.code in ("maximum", "rule"):
        return f"{reach(network)} Only the operator of the server can allow more."
    return (
        f"{reach(network)} Private, local and metadata addresses need WAGGLE_EGRESS_ALLOW_CIDRS, "
        "or a rule for the network in WAGGLE_MAX_NETWORK and in this environment."
    )


def rule_for(decision: Decision) -> str:
    """Return the text of the rule that would allow it."""
    return decision.place.removesuffix(":443").removesuffix(":80")
