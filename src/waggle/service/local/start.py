# SPDX-License-Identifier: Apache-2.0
"""Starts guests for environments: in a new machine, or in a warm one.

Used by `host`, which owns the directories and describes all steps. Puts identity, machine,
connection and proxy together. Knows nothing of images, capacity, and how a machine comes up.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost
from waggle.domain.host import Progress
from waggle.domain.machine import NetworkPolicy
from waggle.domain.programs import HOME, Command, ExecutionResult
from waggle.infra.rootfs.machine_disks import CLAIMED
from waggle.infra.shared.confined import come_forward, may_come_forward
from waggle.infra.ssh import EnvironmentKeys, SshConnection, new_keys
from waggle.infra.ssh.run import Shell
from waggle.service.local.blueprint import Blueprint, GuestParts, MadeOf, Proxy
from waggle.service.local.bring_up import LocalMachines, identity_of, save_access
from waggle.service.local.frozen.moments import Freezing, Moment, frozen_in
from waggle.service.local.guest import LocalGuest
from waggle.service.local.warm_machine import WarmMachine
from waggle.tasks import end, stage

NewProxy = Callable[[Environment], Proxy]
_NOBODY = "warm"
"""The host name of a warm machine."""
_RUNS, _ENOUGH = 3, 5.0
"""An emulated processor repeats faster; a command that takes _ENOUGH seconds runs once."""
_CLAIM_SECONDS = 5.0
"""A warm machine answers at once; waiting for one that does not costs no more than a new one."""


class LocalStart:
    """Starts guests."""

    def __init__(
        self,
        machines: LocalMachines,
        parts: GuestParts,
        new_proxy: NewProxy,
        freezing: Freezing,
    ) -> None:
        self._machines = machines
        self._parts = parts
        self._new_proxy = new_proxy
        self._freezing = freezing

    async def new_guest(
        self,
        environment: Environment,
        made_of: MadeOf,
        files: Path,
        moment: Moment | None,
        progress: Progress,
    ) -> LocalGuest:
        """Bring its machine up and connect. A failure leaves `files` as they were."""
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(clear, files)
            with stage("keys"):
                keys = new_keys()
            identity = self._identity_of(environment, made_of, keys)
            blueprint = Blueprint(made_of, identity, files, environment.owner)
            await progress(0.4, "Resuming the machine" if moment else "Booting the machine")
            started = await self._machines.start(blueprint, moment)
            undo.push_async_callback(started.stop)
            save_access(files, keys, started.lease.port)
            connection = SshConnection(started.lease.port, keys)
            guest = self._guest(environment, WarmMachine(started, keys, connection))
            undo.push_async_callback(guest.disconnect)
            await progress(0.8, "Connecting")
            await guest.connect()
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    async def warm(self, made_of: MadeOf, files: Path, command: Command) -> WarmMachine:
        """Return a machine without an owner: up, connected, and it has run `command`.

        It comes up in the background if its priority can be raised afterwards. A failure leaves
        `files` as they were. Raises as `LocalMachines.start` does.
        """
        polite = may_come_forward()
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(clear, files)
            keys = new_keys()
            identity = identity_of(
                *(made_of.image, keys, _NOBODY, NetworkPolicy.NONE),
                certificates=self._parts.certificates,
            )
            blueprint = Blueprint(made_of, identity, files)
            started = await self._machines.start(blueprint, background=polite)
            undo.push_async_callback(started.stop)
            save_access(files, keys, started.lease.port)
            connection = SshConnection(started.lease.port, keys)
            undo.push_async_callback(connection.aclose)
            await repeated(partial(Shell(connection).run, command))
            await started.machine.renew({})  # tries the channel that a claim uses
            if polite:
                come_forward(started.machine.identity)
            undo.pop_all()
        return WarmMachine(started, keys, connection)

    async def hand_over(
        self, machine: WarmMachine, environment: Environment, files: Path, progress: Progress
    ) -> LocalGuest:
        """Give a warm machine to this environment; if that fails, it is destroyed.

        Its files become `files`, which must not exist. Raises GuestLost, ImageCorrupt or OSError.
        """
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(machine.destroy)
            own = machine.moved(files)
            undo.push_async_callback(own.destroy)
            identity = self._identity_of(environment, own.made_of, own.keys)
            guest = self._guest(environment, own)
            guest.booted_from["warm"] = "yes"
            undo.push_async_callback(guest.disconnect)
            records = {each: identity[each] for each in CLAIMED}
            try:
                async with asyncio.timeout(_CLAIM_SECONDS):
                    await _both(own.started.machine.renew(records), guest.connect())
            except TimeoutError:
                raise GuestLost("The machine that waited does not answer.") from None
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    def _guest(self, environment: Environment, own: WarmMachine) -> LocalGuest:
        """Return the guest in the environment's machine. The caller connects it."""
        parts = own.made_of
        has_network = environment.network is not NetworkPolicy.NONE
        proxy = self._new_proxy(environment) if has_network else None
        if proxy is not None:
            own.connection.offer(proxy.serve)
        return LocalGuest(
            own.started,
            own.connection,
            proxy,
            environment=environment,
            directory=parts.image.directory or HOME,
            booted_from={
                "image": parts.image.digest,
                "kernel": parts.kernel.stem,
                "kit": parts.kit.stem,
                **({"template": own.started.template} if own.started.template else {}),
            },
            freezing=self._freezing,
        )

    def _identity_of(
        self, environment: Environment, made_of: MadeOf, keys: EnvironmentKeys
    ) -> Mapping[str, bytes]:
        return identity_of(
            *(made_of.image, keys, environment.name, environment.network),
            certificates=self._parts.certificates,
            variables=environment.variables,
        )


async def repeated(run: Callable[[], Awaitable[ExecutionResult]]) -> None:
    """Run it _RUNS times, but stop after a run that takes more than _ENOUGH seconds."""
    for _ in range(_RUNS):
        if (await run()).duration > _ENOUGH:
            break


async def _both(*work: Coroutine[None, None, None]) -> None:
    """Run both at once; the first failure cancels the other."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for each in done:
            each.result()
    finally:
        await end(*tasks)


def clear(files: Path) -> None:
    """Remove a gone machine's files, but not the frozen machine that it resumed from."""
    for path in files.iterdir():
        if path != frozen_in(files):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
