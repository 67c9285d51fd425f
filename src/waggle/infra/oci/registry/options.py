# SPDX-License-Identifier: Apache-2.0
"""The registry client's options, environment, progress and address rules, as plain values.

Made from settings by the service. Time, chance and sleep are injected, so that tests can replace
them. `Tally` counts transferred bytes and `at_once` runs transfers in parallel, for pulls and
`push`. The address rules apply to connections that a registry caused, not the operator: a redirect
or a token service must not turn waggle into a way to services of this host or its network. Knows no
settings and no protocol. `waggle.infra.net` has its own, finer tables for guests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from waggle.infra.oci.store.image import Descriptor
from waggle.tasks import end


class Reach(StrEnum):
    """The smallest range that an address belongs to."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    SPECIAL = "special"
    """Link-local (cloud metadata), multicast, reserved, tunnels: never needed."""


ANYWHERE = frozenset(Reach)
_SHARED = ip_network("100.64.0.0/10")
_METADATA = (IPv4Address("168.63.129.16"), IPv4Address("100.100.100.200"))
_TUNNELS = tuple(
    ip_network(block) for block in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)
_UNIQUE_LOCAL = ip_network("fc00::/7")
_PRIVATE = tuple(ip_network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))


def reach_of(text: str) -> Reach:
    """Classify an IP address; doubtful addresses and other text are SPECIAL."""
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
    """Return where a registry at `peer` may send us; `trusted` if the operator trusts its network.

    Only to ranges that it is in itself: from the public internet only to the public internet.
    """
    allowed = {Reach.PUBLIC}
    if trusted or peer in {Reach.PRIVATE, Reach.LOOPBACK}:
        allowed.add(Reach.PRIVATE)
    if trusted or peer is Reach.LOOPBACK:
        allowed.add(Reach.LOOPBACK)
    return frozenset(allowed)


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached. Times are in seconds, sizes in bytes."""

    insecure: frozenset[str] = frozenset()
    """Registries (`host` or `host:port`, as in references) that are reached without TLS.

    Naming one trusts its network: its redirects may lead to private addresses, too.
    """
    named: frozenset[str] | None = None
    """Registries that the operator named; None names all.

    Others are reached only at public addresses: a client that may name any registry must not find
    services of the operator's network.
    """
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Maps a registry to `host[:port][/path]` of its mirrors, tried in order before itself."""
    ca_pem: bytes = b""
    """Certificates trusted besides the system's."""
    auth_files: tuple[Path, ...] = ()
    """auth.json or config.json files; the first that has an entry counts. May be missing."""
    parallel: int = 3
    """How many blobs of one image are transferred at the same time."""
    attempts: int = 5
    """How many times one request is tried in total while its failures look transient."""
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    """How long a transfer may stall or crawl."""
    first_pause: float = 0.5
    """The pause before the second attempt; it doubles, up to `longest_pause`, with jitter."""
    longest_pause: float = 60.0
    """Also bounds the pause that a registry requests with Retry-After."""
    max_bytes: int = 32 << 30
    """All layers of one image together, as stored."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """The progress of a pull or push. Totals are 0 until the manifest is known."""

    done_bytes: int = 0
    """May shrink when a broken blob must be fetched again from its start."""
    total_bytes: int = 0
    done_layers: int = 0
    layers: int = 0
    text: str = ""


Report = Callable[[Transfer], None]


@dataclass(frozen=True, slots=True)
class Ambient:
    """The functions that the client takes from its environment."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    """Seconds since the epoch, for dates in Retry-After and the expiry of tokens."""
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    """A number from 0 to 1, for jitter."""
    reach: Callable[[str], Reach] = reach_of
    """Returns the range that an IP address belongs to."""


class Tally:
    """The progress of several blobs; reports every change."""

    def __init__(self, blobs: Sequence[Descriptor], report: Report, text: str) -> None:
        """`blobs` are distinct; `text` describes the work."""
        self._report = report
        self._text = text
        self._total = sum(blob.size for blob in blobs)
        self._count = len(blobs)
        self._bytes: dict[str, int] = {}
        self._complete: set[str] = set()
        self._report_state()

    def advance_of(self, blob: Descriptor) -> Callable[[int], None]:
        """Return a function that adds bytes to the blob's count (negative when some are lost)."""

        def advance(count: int) -> None:
            self._bytes[blob.digest] = self._bytes.get(blob.digest, 0) + count
            self._report_state()

        return advance

    def reset(self, blob: Descriptor) -> None:
        """Forget the bytes transferred of a blob."""
        self._bytes.pop(blob.digest, None)

    def complete(self, blob: Descriptor) -> None:
        """Count a blob as fully done. Idempotent."""
        if blob.digest not in self._complete:
            self._complete.add(blob.digest)
            self._bytes[blob.digest] = blob.size
            self._report_state()

    def _report_state(self) -> None:
        done = sum(self._bytes.values())
        self._report(Transfer(done, self._total, len(self._complete), self._count, self._text))


async def at_once(jobs: Sequence[Callable[[], Awaitable[None]]], parallel: int) -> None:
    """Run all jobs, at most `parallel` at a time; the first failure ends the others and is raised.

    Returns or raises only when no job is running any more, also when cancelled.
    """
    gate = asyncio.Semaphore(max(1, parallel))

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        async with gate:
            await job()

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end(*tasks)
