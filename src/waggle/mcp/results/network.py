# SPDX-License-Identifier: Apache-2.0
"""Result models of what an environment has made of its network. Pure.

Called by `results.state` and `resources.read`. Hosts were chosen by the guest and made printable by
the proxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel, Field

from waggle.domain.network.use import NetworkUse, Remembered
from waggle.mcp.results import rfc3339

MOST_REFUSED: Final = 10
"""The most refusals in the state of an environment."""


class RefusedItem(BaseModel):
    """Connections that were refused."""

    to: str = Field(description="Host and port.")
    why: str
    count: int = 1
    last_at: str = Field(description="RFC 3339.")


class NetworkUseItem(BaseModel):
    """The use of the network since the create, the last resume from the disk, or rollback."""

    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    refused: int = Field(default=0, description="Connections that were refused.")
    last_refused: list[RefusedItem] = Field(
        default_factory=list[RefusedItem], description=f"Newest first; at most {MOST_REFUSED}."
    )


class DecisionItem(BaseModel):
    """Equal decisions about connections."""

    last_at: str
    outcome: str
    host: str
    port: int
    rule: str = ""
    why: str = ""
    address: str = ""
    count: int = 1
    sent_bytes: int = 0
    received_bytes: int = 0


class NetworkContent(BaseModel):
    """The content of a network resource, as JSON; the newest decision is the last one.

    Bytes of decisions are those of connections that have ended.
    """

    network: str
    connections: int = 0
    refused: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    decisions: list[DecisionItem] = Field(default_factory=list[DecisionItem])


def network_use_item(use: NetworkUse | None, now: datetime) -> NetworkUseItem | None:
    """Return the use of the network as of `now`, or None if there was none."""
    if use is None or use.is_empty:
        return None
    last = [_refused(one, now) for one in use.denied[: -MOST_REFUSED - 1 : -1]]
    return NetworkUseItem(
        connections=use.connections,
        sent_bytes=use.sent,
        received_bytes=use.received,
        refused=use.refused,
        last_refused=last,
    )


def network_lines(item: NetworkUseItem | None) -> Sequence[str]:
    """Return it as lines of text."""
    if item is None:
        return ()
    amounts = [
        f"{item.connections} connections",
        f"{_size(item.sent_bytes)} sent",
        f"{_size(item.received_bytes)} received",
        *([f"{item.refused} refused"] if item.refused else []),
    ]
    return (f"network used: {', '.join(amounts)}", *map(_line, item.last_refused))


def _line(one: RefusedItem) -> str:
    when = f"{one.count} times, last at {one.last_at}" if one.count > 1 else one.last_at
    return f"refused {one.to} ({when}): {one.why}"


def network_content(use: NetworkUse | None, network: str, now: datetime) -> NetworkContent:
    """Return all that is remembered of the use of the network."""
    if use is None:
        return NetworkContent(network=network)
    ordered = sorted((*use.allowed, *use.denied), key=lambda one: one.ago, reverse=True)
    return NetworkContent(
        network=str(use.network),
        connections=use.connections,
        refused=use.refused,
        sent_bytes=use.sent,
        received_bytes=use.received,
        decisions=[_decision(one, now) for one in ordered],
    )


def _refused(one: Remembered, now: datetime) -> RefusedItem:
    decision = one.decision
    return RefusedItem(
        to=decision.place, why=decision.reason, count=one.count, last_at=_at(one, now)
    )


def _decision(one: Remembered, now: datetime) -> DecisionItem:
    decision = one.decision
    return DecisionItem(
        last_at=_at(one, now),
        outcome=decision.code,
        host=decision.host,
        port=decision.port,
        rule=decision.rule,
        why=decision.reason,
        address=decision.address,
        count=one.count,
        sent_bytes=one.sent,
        received_bytes=one.received,
    )


def _at(one: Remembered, now: datetime) -> str:
    return rfc3339(now - timedelta(seconds=one.ago))


def _size(size: int) -> str:
    if size < 10_000:
        return f"{size} bytes"
    return f"{size / 1_000:.0f} kB" if size < 10_000_000 else f"{size / 1_000_000:.0f} MB"
