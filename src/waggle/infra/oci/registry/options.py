# SPDX-License-Identifier: Apache-2.0
"""What the registry client is told, as plain values, and what it tells while it works.

Made by the service from settings. Also what the client takes from around it (time, chance, sleep),
so that tests can put their own in place. Knows no settings and no protocol.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from waggle.infra.oci.registry.addresses import Reach, reach_of


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached. Times are in seconds, sizes in bytes."""

    insecure: frozenset[str] = frozenset()
    """Registries (`host` or `host:port`, as references spell them) that are spoken to without TLS.
    Naming one trusts its network: its redirects may lead to private addresses, too."""
    named: frozenset[str] | None = None
    """Registries that the operator named. Any other is asked only at public addresses: a client
    that may name any must not learn what runs in the operator's network. None names all."""
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Registry -> `host[:port][/path]` of its mirrors, tried in this order before itself."""
    ca_pem: bytes = b""
    """Certificates trusted besides the system's."""
    auth_files: tuple[Path, ...] = ()
    """auth.json or config.json files; the first that has an entry counts. May be missing."""
    parallel: int = 3
    """Blobs of one image that are transferred at the same time."""
    attempts: int = 5
    """How often one request is tried in all while its failures look transient."""
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    """How long a transfer may stand still, or crawl."""
    first_pause: float = 0.5
    """The pause before the second attempt; it doubles, up to `longest_pause`, with jitter."""
    longest_pause: float = 60.0
    """Bounds also what a registry asks for with Retry-After."""
    max_bytes: int = 32 << 30
    """All layers of one image together, as they are stored."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a pull or push is. Totals are 0 until the manifest is known."""

    done_bytes: int = 0
    """May shrink when a broken blob must be fetched again from its start."""
    total_bytes: int = 0
    done_layers: int = 0
    layers: int = 0
    text: str = ""


Report = Callable[[Transfer], None]


@dataclass(frozen=True, slots=True)
class Ambient:
    """What the client takes from around it."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    """Seconds since the epoch: dates in Retry-After, and when tokens end."""
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    """From 0 to 1, for jitter."""
    reach: Callable[[str], Reach] = reach_of
    """From where an IP address can be reached."""
