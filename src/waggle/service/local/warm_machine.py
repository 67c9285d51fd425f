# SPDX-License-Identifier: Apache-2.0
"""A machine that is up, connected and has run its runtime once, and is nobody's yet.

Made by `local_start`, kept by `warm_pool`. Its keys are its own and stay; it has no other secret.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from waggle.domain.machine import Machine
from waggle.infra.ssh.connection import EnvironmentKeys, SshConnection
from waggle.service.local.blueprint import Blueprint, MadeOf
from waggle.service.local.launcher import Launched
from waggle.tasks import finish


@dataclass(frozen=True, eq=False, slots=True)
class WarmMachine:
    """Implements `warm_ending.Warm`. Whoever claims it owns all of it."""

    blueprint: Blueprint
    launched: Launched[Machine]
    keys: EnvironmentKeys
    connection: SshConnection
    template: str | None

    @property
    def made_of(self) -> MadeOf:
        """What it was made of."""
        return self.blueprint.made_of

    @property
    def is_alive(self) -> bool:
        """False once its VMM has ended."""
        return self.launched.machine.is_alive

    async def wait(self) -> str:
        """Return when it is dead, with the cause."""
        return await self.launched.machine.wait()

    def moved(self, files: Path) -> WarmMachine:
        """The same machine, with its files elsewhere and called as they are. Raises OSError."""
        self.blueprint.files.rename(files)
        blueprint = replace(self.blueprint, id=files.name, files=files)
        spec = replace(
            self.launched.spec,
            id=files.name,
            disks=blueprint.disks,
            console_log=files / self.launched.spec.console_log.name,
        )
        return replace(self, blueprint=blueprint, launched=self.launched._replace(spec=spec))

    async def destroy(self) -> None:
        """End it and remove its files. Idempotent; finishes when cancelled.

        Raises TimedOut when it does not die: its port is kept then, and a later call tries again.
        """
        await finish(self._destroy())

    async def _destroy(self) -> None:
        try:
            await self.launched.machine.stop()
        finally:
            await self.connection.aclose()
        await asyncio.to_thread(shutil.rmtree, self.blueprint.files, True)
        self.launched.lease.release()
