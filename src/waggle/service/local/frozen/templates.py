# SPDX-License-Identifier: Apache-2.0
"""Templates: frozen machines that booted once and have no owner, for new machines to start from.

`LocalMachines` looks for one for every create. If there is none, it requests one after that
machine has booted. Templates are made in the background, one at a time: another machine boots, runs
its runtime once so that the pages of first calls are in memory, and is frozen. Its keys open
nothing afterwards: they were only in memory. Without a task group there are only templates that
`ensure` made, in this process or in another, such as `waggle template build`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio.abc
import structlog

from waggle.domain.errors import DiskFull, SetupIncomplete, WaggleError
from waggle.domain.host import UNDISTURBED
from waggle.domain.machine import CONSOLE, IDENTITY, FreezingHypervisor, Resources
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Template, TemplateKey
from waggle.infra.rootfs.machine_disks import network_records, pack
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.ssh import EnvironmentKeys, SshConnection, new_keys
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.sftp import Files
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import Blueprint, Launcher, Scratch
from waggle.service.local.frozen import FrozenMachine
from waggle.service.local.frozen.manifest import Loaded, closing_with
from waggle.service.local.frozen.spare import hold_ready
from waggle.service.local.frozen.turns import Turns
from waggle.tasks import finish

log = structlog.get_logger(__name__)
OF_ONE_OWNER, OF_ALL_OWNERS = 4, 64
"""How many are kept if they are per owner: one for every runtime; and of all owners."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How templates are made. `certificates` is PEM.

    `warm` has the command that a runtime runs, `spares` those of contexts that are held ready.

    In the background they are made for machines of the `usual` size only, or clients could fill the
    disk with sizes; None means any. Copies share memory with their template until they write: if
    `apart`, templates are per owner, and a machine without a template of its owner boots.
    """

    scratch: Scratch
    certificates: bytes
    warm: Mapping[RuntimeName, Command]
    spares: Mapping[RuntimeName, Command] = field(default_factory=dict[RuntimeName, Command])
    usual: Resources | None = None
    apart: bool = False


class NoTemplates:
    """For a server whose machines all boot."""

    @contextlib.asynccontextmanager
    async def frozen_for(self, blueprint: Blueprint) -> AsyncGenerator[None]:
        """Yield None."""
        yield

    def want(self, blueprint: Blueprint) -> None:
        """Do nothing."""

    def reject(self, template_id: str) -> None:
        """Do nothing."""

    async def idle(self) -> None:
        """Return at once."""


class Templates:
    """The templates of one hypervisor on this host."""

    def __init__(
        self,
        store: TemplateStore,
        hypervisor: FreezingHypervisor,
        launcher: Launcher,
        recipe: Recipe,
        tasks: anyio.abc.TaskGroup | None,
        room: DiskRoom | None = None,
        *,
        turns: Turns | None = None,
    ) -> None:
        """Wanted templates are made in `tasks`; with None, only `ensure` makes any.

        `room` is that of the store's disk.
        """
        self._room = room or DiskRoom("the directory of templates", store.directory, 0)
        self._turns = turns or Turns()
        self.hypervisor = hypervisor
        self.store = store
        self.loaded = Loaded()
        self._launcher = launcher
        self._recipe = recipe
        self._tasks = tasks
        self._given_up: set[str] = set()
        self._wanted: set[str] = set()
        self._turn = asyncio.Lock()
        self._idle = asyncio.Event()

    async def find(self, blueprint: Blueprint) -> Template | None:
        """Return the template that fits, or None. Raises SetupIncomplete without a VMM."""
        if self._may_not_share(blueprint):
            return None
        return await asyncio.to_thread(self.store.find, self._key(blueprint))

    def _may_not_share(self, blueprint: Blueprint) -> bool:
        """Return whether it has no owner yet, although templates are per owner."""
        return self._recipe.apart and blueprint.owner is None

    def want(self, blueprint: Blueprint) -> None:
        """Make the template for this blueprint in the background, unless that is under way.

        Does not raise: without a VMM there is nothing to make.
        """
        usual = self._recipe.usual
        if self._tasks is None or self._may_not_share(blueprint):
            return
        if usual and blueprint.parts.resources != usual:
            return
        try:
            key = self._key(blueprint)
        except SetupIncomplete:
            return
        if key.id not in self._given_up | self._wanted:
            self._wanted.add(key.id)
            self._idle.clear()
            self._tasks.start_soon(self._make, key, blueprint)

    async def idle(self) -> None:
        """Return once all wanted templates are made or given up."""
        while self._wanted:
            await self._idle.wait()

    async def ensure(self, blueprint: Blueprint) -> tuple[str, bool]:
        """Make the template for this blueprint if there is none; return its id, and if it was made.

        Raises as `make` does.
        """
        key = self._key(blueprint)
        async with self._turn:
            if await self.find(blueprint) is not None:
                return key.id, False
            await self.make(key, blueprint)
        return key.id, True

    @contextlib.asynccontextmanager
    async def frozen_for(self, blueprint: Blueprint) -> AsyncGenerator[FrozenMachine | None]:
        """Hold the template that fits, or None, in memory for the length of a block.

        The name of its directory is the template's id. Raises SetupIncomplete or OSError.
        """
        template = await self.find(blueprint)
        if template is None:
            yield None
            return
        load = partial(self.hypervisor.load, template.directory, template.key.parts)
        async with self.loaded.using(template.directory, load) as state:
            name = self.hypervisor.name
            yield FrozenMachine(template.directory, name, blueprint.parts, state)

    def reject(self, template_id: str) -> None:
        """Remove a template that does not work; another is made when it is wanted again."""
        self.store.remove(template_id)

    def _key(self, blueprint: Blueprint) -> TemplateKey:
        warm = self._recipe.warm[blueprint.parts.runtime]
        spare = self._recipe.spares.get(blueprint.parts.runtime)
        return TemplateKey.of(
            image=blueprint.parts.image.digest,
            kernel=blueprint.parts.kernel.stem,
            kit=blueprint.parts.kit.stem,
            resources=blueprint.parts.resources,
            certificates=self._recipe.certificates,
            warmed=(
                *warm.argv,
                *([warm.code.decode()] if warm.code else []),
                *(spare.argv if spare else ()),
            ),
            vmm=self.hypervisor.fingerprint(),
            owner=blueprint.owner if self._recipe.apart else None,
        )

    async def _make(self, key: TemplateKey, blueprint: Blueprint) -> None:
        """Make a template; a failure is logged and not tried again, except for lack of room."""
        try:
            async with self._turn:
                if await self.find(blueprint) is None:
                    await self.make(key, blueprint)
        except (DiskFull, *UNDISTURBED) as error:
            log.warning("template_put_off", template=key.id, error=error.message)
        except (WaggleError, OSError) as error:
            self._given_up.add(key.id)
            log.warning("template_not_made", template=key.id, error=str(error))
        finally:
            self._wanted.discard(key.id)
            if not self._wanted:
                self._idle.set()

    async def make(self, key: TemplateKey, blueprint: Blueprint) -> None:
        """Boot a machine of that kind, warm it, freeze it. Leaves nothing if it fails.

        Raises BootFailed, GuestLost, NoPorts, SetupIncomplete, DiskFull, NoMemory, NoTurn
        or OSError.
        """
        self._room.require()
        self._turns.require(blueprint.parts.resources)
        with self._room.errors(), self.store.workspace() as work:
            keys = new_keys()
            own = replace(blueprint, files=work)
            disks = own.disks
            await self._recipe.scratch.make(own.parts.resources.disk_mib, disks.scratch)
            disks.identity.write_bytes(pack(_identity(blueprint, keys)))
            started = await self._launcher.launch(own, self.hypervisor.boot, background=True)
            machine = started.machine
            async with contextlib.AsyncExitStack() as held:
                try:
                    await self._warm(started.lease.port, keys, own.parts.runtime)
                    await machine.agent.ping()
                    await machine.settle()
                    its_turn = self._turns.turn(own.parts.resources, own.owner)
                    turn = await held.enter_async_context(its_turn)
                    state = await finish(closing_with(held, machine.freeze(disks)))
                    turn.copied()
                finally:
                    await started.stop()
                if not self.hypervisor.fingerprint(state).items() <= key.parts.items():
                    raise SetupIncomplete("Its VMM has changed since it was wanted.")
                await asyncio.to_thread(state.save, work)
            await asyncio.to_thread(_finish, work)
            await asyncio.to_thread(self.store.place, key, work)
        await asyncio.to_thread(self.store.trim, OF_ONE_OWNER, OF_ALL_OWNERS)
        log.info("template_made", template=key.id, image=blueprint.parts.image.reference)

    async def _warm(self, port: int, keys: EnvironmentKeys, runtime: RuntimeName) -> None:
        """Bring into memory what the first call of an environment needs, as far as it works."""
        connection = SshConnection(port, keys)
        try:
            result = await Shell(connection).run(self._recipe.warm[runtime])
            if result.exit_code != 0:
                log.warning("template_not_warmed", runtime=runtime, exit_code=result.exit_code)
            await Files(connection).list("/")
            if spare := self._recipe.spares.get(runtime):
                await hold_ready(connection, spare)
        finally:
            await connection.aclose()


def _identity(blueprint: Blueprint, keys: EnvironmentKeys) -> dict[str, bytes]:
    """Return the identity of the machine to freeze; no client ever connects to it.

    It has a network, as most copies do: their renewal finds nothing to change.
    """
    return {
        **blueprint.identity,
        **network_records(is_there=True),
        "host_key": keys.host_key,
        "authorized_keys": keys.authorized_keys,
        "hostname": b"template",
        "seed": secrets.token_bytes(64),
    }


def _finish(work: Path) -> None:
    """Remove secrets and what a copy does not need; the identity disk keeps its size."""
    identity = work / IDENTITY
    size = identity.stat().st_size
    os.truncate(identity, 0)
    os.truncate(identity, size)
    (work / CONSOLE).unlink(missing_ok=True)
