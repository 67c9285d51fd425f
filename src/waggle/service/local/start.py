# SPDX-License-Identifier: Apache-2.0
"""Starts guests for environments, in a new machine or in a warm one, and makes their identity.

Used by `host`, which owns the directories and describes all steps. Puts identity, machine,
connection and proxy together. The identity of a machine is the records of keys, host name,
variables and certificates. Knows nothing of images, capacity, and how a machine comes up.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, ImageCorrupt
from waggle.domain.host import Progress
from waggle.domain.image import BootImage
from waggle.domain.network import NO_NETWORK, Network
from waggle.domain.network.use import NetworkUse
from waggle.domain.programs import HOME, Command, ExecutionResult
from waggle.infra.guest.policy import SERVER_POLICY
from waggle.infra.net.tls.authority import EnvironmentAuthority
from waggle.infra.rootfs.machine_disks import (
    AGENT_POLICY,
    CERTIFICATES,
    CLAIMED,
    SEED_BYTES,
    identity_records,
    machine_records,
    network_records,
)
from waggle.infra.shared.confined import come_forward, may_come_forward
from waggle.infra.shared.files import atomic_write
from waggle.infra.ssh import PROXY_PORT, EnvironmentKeys, SshConnection, new_keys
from waggle.infra.ssh.run import Shell
from waggle.service.local.blueprint import (
    Blueprint,
    LocalMachines,
    MachineParts,
    StartedMachine,
)
from waggle.service.local.frozen import FrozenMachine, frozen_in
from waggle.service.local.guest import LocalGuest
from waggle.service.local.proxy import Proxy
from waggle.service.local.variables import Blocks, guest_variables
from waggle.service.local.warm_machine import WarmMachine
from waggle.tasks import stage, together

NewProxy = Callable[[Environment], Proxy]
_NO_OWNER = "warm"
"""The host name of a warm machine."""
_RUNS, _ENOUGH = 3, 5.0
"""An emulated processor repeats faster; a command that takes _ENOUGH seconds runs once."""
_CLAIM_SECONDS = 5.0
"""A warm machine answers at once; waiting for one that does not costs no more than a new one."""


class LocalStart:
    """Starts guests in machines of one hypervisor."""

    def __init__(self, machines: LocalMachines, new_proxy: NewProxy) -> None:
        self.machines = machines
        self._parts = machines.parts
        self._new_proxy = new_proxy

    async def new_guest(
        self,
        environment: Environment,
        parts: MachineParts,
        files: Path,
        frozen: FrozenMachine | None,
        progress: Progress,
    ) -> LocalGuest:
        """Bring its machine up and connect. A failure leaves `files` as they were."""
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(clear, files)
            with stage("keys"):
                keys = new_keys()
            identity = self._identity_of(environment, parts, keys)
            own = bool(environment.secrets)
            blueprint = Blueprint(parts, identity, files, environment.owner, own)
            await progress(0.4, "Resuming the machine" if frozen else "Booting the machine")
            started = await self.machines.start(blueprint, frozen)
            undo.push_async_callback(started.stop)
            guest = await self._connected(environment, started, keys, progress)
            undo.pop_all()
        return guest

    async def again(
        self, environment: Environment, ended: LocalGuest, progress: Progress
    ) -> LocalGuest:
        """Boot another machine from the disk of a guest whose machine was ended, and connect.

        Its keys, its machine id and, if possible, its port stay; its seed is drawn anew. A failure
        leaves its files.
        """
        before, keys = ended.started, ended.keys
        identity = self._identity_of(environment, before.blueprint.parts, keys)
        blueprint = replace(before.blueprint, identity=identity)
        await progress(0.4, "Booting the machine")
        async with contextlib.AsyncExitStack() as undo:
            started = await self.machines.boot_again(blueprint, before.lease)
            undo.push_async_callback(started.stop)
            guest = await self._connected(environment, started, keys, progress, ended.network_use())
            undo.pop_all()
        return guest

    async def _connected(
        self,
        environment: Environment,
        started: StartedMachine,
        keys: EnvironmentKeys,
        progress: Progress,
        use: NetworkUse | None = None,
    ) -> LocalGuest:
        """Return the guest in a machine that is up. The caller stops that if this fails."""
        save_access(started.blueprint.files, keys, started.lease.port)
        connection = SshConnection(started.lease.port, keys)
        guest = self._guest(environment, WarmMachine(started, keys, connection))
        guest.remember_network(use)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(guest.disconnect)
            await progress(0.8, "Connecting")
            await guest.connect()
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    async def warm(self, parts: MachineParts, files: Path, command: Command) -> WarmMachine:
        """Return a machine without an owner: up, connected, and it has run `command`.

        It comes up in the background if its priority can be raised afterwards. A failure leaves
        `files` as they were. Raises as `LocalMachines.start` does.
        """
        polite = may_come_forward()
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(clear, files)
            keys = new_keys()
            identity = identity_of(
                *(parts.image, keys, _NO_OWNER, NO_NETWORK),
                machine=files.name,
                certificates=self._parts.certificates,
            )
            identity = {**identity, **network_records(is_there=True)}  # most claims change nothing
            blueprint = Blueprint(parts, identity, files)
            started = await self.machines.start(blueprint, background=polite)
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
            identity = self._identity_of(environment, own.parts, own.keys)
            own = own.identified(identity)
            guest = self._guest(environment, own)
            guest.booted_from["warm"] = "yes"
            undo.push_async_callback(guest.disconnect)
            renewed = (*CLAIMED, CERTIFICATES) if environment.secrets else CLAIMED
            records = {name: identity[name] for name in renewed}
            try:
                async with asyncio.timeout(_CLAIM_SECONDS), together() as group:
                    group.start_soon(own.started.machine.renew, records)
                    group.start_soon(guest.connect)
            except TimeoutError:
                raise GuestLost("The warm machine does not answer.") from None
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    def _guest(self, environment: Environment, own: WarmMachine) -> LocalGuest:
        """Return the guest in the environment's machine. The caller connects it."""
        parts = own.parts
        has_network = not environment.network.is_none
        proxy = self._new_proxy(environment) if has_network else None
        if proxy is not None:
            own.connection.offer(proxy.serve)
        return LocalGuest(
            own.started,
            own.connection,
            proxy,
            keys=own.keys,
            environment=environment,
            directory=parts.image.directory or HOME,
            booted_from={
                "image": parts.image.digest,
                "kernel": parts.kernel.stem,
                "kit": parts.kit.stem,
                **({"template": own.started.template} if own.started.template else {}),
            },
            freezing=self.machines.freezing,
        )

    def _identity_of(
        self, environment: Environment, parts: MachineParts, keys: EnvironmentKeys
    ) -> Mapping[str, bytes]:
        return identity_of(
            *(parts.image, keys, environment.name, environment.network),
            machine=environment.id,
            certificates=self._parts.certificates + trusted(environment.secrets.authority),
            variables=environment.variables,
            opened=self._parts.opened,
        )


async def repeated(run: Callable[[], Awaitable[ExecutionResult]]) -> None:
    """Run it _RUNS times, but stop after a run that takes more than _ENOUGH seconds."""
    for _ in range(_RUNS):
        if (await run()).duration > _ENOUGH:
            break


def clear(files: Path) -> None:
    """Remove an ended machine's files, but not the frozen machine that it resumed from."""
    for path in files.iterdir():
        if path != frozen_in(files):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def identity_of(
    image: BootImage,
    keys: EnvironmentKeys,
    hostname: str,
    network: Network,
    *,
    machine: str,
    certificates: bytes,
    variables: Mapping[str, str] | None = None,
    opened: Blocks = (),
) -> Mapping[str, bytes]:
    """Return all records, with a fresh seed. Raises ImageCorrupt if no machine can hold them.

    `machine` is the environment's id: it has the same machine id in all its machines, as after a
    pause, and a copy has another. `variables` are the environment's, which win over the image's;
    `opened` as in GuestParts.
    """
    has_network = not network.is_none
    presets = guest_variables(
        image.variables,
        proxy_port=PROXY_PORT if has_network else None,
        has_certificates=bool(certificates),
        opened=opened,
    )
    try:
        records = identity_records(
            host_key=keys.host_key,
            authorized_keys=keys.authorized_keys,
            hostname=hostname,
            environment={**presets, **(variables or {})},
            certificates=certificates,
            user=image.user,
            directory=image.directory,
            shell=image.shell,
        )
    except ValueError as error:
        raise ImageCorrupt(
            f"The image's configuration cannot be given to a machine: {error}.",
            hint="Choose another image, or make this one with fewer or shorter variables.",
        ) from error
    own = machine_records(machine, secrets.token_bytes(SEED_BYTES))
    network_now = network_records(is_there=has_network)
    return {**records, AGENT_POLICY: SERVER_POLICY, **network_now, **own}


def save_access(files: Path, keys: EnvironmentKeys, port: int) -> None:
    """Write what `waggle shell` needs to log in, readable for the server's user only."""
    atomic_write(files / "ssh_key", keys.client.export_private_key(), 0o600)
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    atomic_write(files / "known_hosts", known, 0o600)


def trusted(authority: str) -> bytes:
    """Return the certificate of an environment's authority, for the guest; empty without one."""
    return EnvironmentAuthority.load(authority.encode()).certificate if authority else b""
