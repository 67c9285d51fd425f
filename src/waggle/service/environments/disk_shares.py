# SPDX-License-Identifier: Apache-2.0
"""How much of the host's disk each owner may have: his environments, snapshots and jobs' output.

Held open by the use cases around whatever is about to take much of the disk. What a guest writes
to a disk that it has is bounded by that disk's size and counts from then on. Knows no files.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping

from waggle.domain.access import Quota, SeveralOwners, share_of
from waggle.domain.host import EnvironmentHost
from waggle.service.environments.registry import Registry

FIRST_BYTES = 64 << 20
"""Counted for a new environment until it is up: an empty disk and its files."""


class DiskShares:
    """The bytes of each owner. `most_mib` is what one may have; 0 means a share, if there are more.

    The share is half of what there is for all: what is free, and what environments have now.
    """

    def __init__(
        self,
        host: EnvironmentHost,
        registry: Registry,
        most_mib: int,
        several_owners: SeveralOwners,
    ) -> None:
        self._host = host
        self._registry = registry
        self._most_mib = most_mib
        self._several_owners = several_owners
        self._others: list[Callable[[], Mapping[str, int]]] = []
        self._coming = Counter[str]()
        """Bytes that are about to be written, by owner."""

    def count(self, held: Callable[[], Mapping[str, int]]) -> None:
        """Count what `held` says from now on: bytes by owner. It must not wait."""
        self._others.append(held)

    def require(self) -> None:
        """Raise DiskFull when the disk has too little room for anything more."""
        self._host.require_disk()

    @contextlib.asynccontextmanager
    async def room(
        self, owner: str, need: int = FIRST_BYTES, *, copies: int = 0, of: str = ""
    ) -> AsyncGenerator[None]:
        """Hold `need` bytes, and as many `copies` of an environment's disk, until the block ends.

        What was written meanwhile counts twice, so no owner comes to more than his share. Raises
        QuotaExceeded, or DiskFull below the operator's reserve.
        """
        self.require()
        if not self._most_mib and not self._several_owners():
            yield
            return
        use = await self._host.disk_use()
        need += copies * use.of_environments.get(of, 0)
        held = Counter[str]()
        for environment in self._registry.environments():
            held[environment.owner] += use.of_environments.get(environment.id, 0)
        for count in self._others:
            held.update(count())
        share = self._most_mib or share_of((use.free + held.total()) >> 20, several=True)
        quota = Quota(
            "MiB of disk",
            share,
            "WAGGLE_MAX_DISK_MB_PER_OWNER",
            "Destroy environments or delete snapshots of yours that are no longer needed.",
        )
        quota.require(owner, _mib(held[owner] + self._coming[owner]), _mib(need))
        self._coming[owner] += need
        try:
            yield
        finally:
            self._coming[owner] -= need


def _mib(size: int) -> int:
    """Rounded up."""
    return -(-size >> 20)
