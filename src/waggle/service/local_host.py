# SPDX-License-Identifier: Apache-2.0
"""Environments on this machine; implements `domain.host.EnvironmentHost`.

Puts together what one environment needs, in this order: image disk, directory, keys, machine (with
its port and disks: `local_machines`), SSH connection. Whatever fails, what was made before is
undone. Knows the adapters; knows nothing of capacity, clients or MCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path

from waggle.domain import host
from waggle.domain.environment import Environment
from waggle.domain.errors import (
    BootFailed,
    GuestLost,
    MomentUnusable,
    Unsupported,
    WaggleError,
)
from waggle.domain.execution import HOME
from waggle.domain.host import Progress
from waggle.domain.image import BootImages
from waggle.domain.machine import Machine
from waggle.infra.confined import kill_identified
from waggle.infra.files import atomic_write
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.keys import EnvironmentKeys, new_keys
from waggle.infra.stages import stage
from waggle.service.blueprint import GuestParts
from waggle.service.drawing import draw, has_network
from waggle.service.launcher import Launched
from waggle.service.local_guest import LocalGuest, Proxy
from waggle.service.local_machines import LocalMachines
from waggle.service.moment_facts import MadeOf
from waggle.service.moments import Moment, Moments, frozen_in

_MIN_FREE_BYTES = 256 << 20


NewProxy = Callable[[Environment], Proxy]


class LocalHost:
    """Boots environments with one hypervisor under `directory`, one subdirectory for each."""

    def __init__(
        self,
        *,
        directory: Path,
        machines: LocalMachines,
        images: BootImages,
        parts: GuestParts,
        new_proxy: NewProxy,
        moments: Moments | None = None,
    ) -> None:
        """`moments` is None where the hypervisor cannot freeze machines."""
        self._directory = directory
        self._machines = machines
        self._images = images
        self._parts = parts
        self._new_proxy = new_proxy
        self.moments = moments

    async def create(
        self, environment: Environment, progress: Progress, moment: host.Moment | None = None
    ) -> LocalGuest:
        """Boot and connect; see `domain.host.EnvironmentHost.create`."""
        if moment is not None and not isinstance(moment, Moment):
            raise MomentUnusable("It was not taken by this server's hypervisor.")
        await progress(0.0, f"Looking up the image {environment.image}")
        made_of = moment.made_of if moment else await self._newest(environment, progress)
        async with _clear_errors(), contextlib.AsyncExitStack() as undo:
            files = self._make_directory(environment)
            undo.callback(shutil.rmtree, files, ignore_errors=True)
            guest = await self._start(environment, made_of, files, moment, progress)
            undo.pop_all()
        return guest

    async def wake(self, environment: Environment, progress: Progress) -> LocalGuest:
        """Go on from where it hibernated; see `domain.host.EnvironmentHost.wake`."""
        if self.moments is None:
            raise Unsupported("This server's hypervisor cannot wake machines.")
        files = self._directory / environment.id
        await progress(0.0, "Reading its state")
        async with _clear_errors():
            async with self.moments.recalled(frozen_in(files), alone=True) as moment:
                _clear(files)
                guest = await self._start(environment, moment.made_of, files, moment, progress)
            await asyncio.to_thread(shutil.rmtree, moment.directory, True)
        return guest

    async def salvage(self, environment: Environment) -> bool:
        """Whether it can be woken; see `domain.host.EnvironmentHost.salvage`."""
        if environment.machine is not None:
            kill_identified(environment.machine)
        files = self._directory / environment.id
        if self.moments is None or not frozen_in(files).is_dir():
            return False
        _clear(files)
        return True

    @property
    def can_freeze(self) -> bool:
        """Whether the hypervisor can."""
        return self.moments is not None

    async def _newest(self, environment: Environment, progress: Progress) -> MadeOf:
        with stage("image"):
            image = await self._images.boot_image(environment.image, progress)
        return MadeOf(
            environment.runtime,
            image,
            self._parts.kernel(),
            self._parts.kit(),
            environment.resources,
        )

    async def _start(
        self,
        environment: Environment,
        made_of: MadeOf,
        files: Path,
        moment: Moment | None,
        progress: Progress,
    ) -> LocalGuest:
        """Have its machine come up, and connect. What fails leaves `files` as they were."""
        image = made_of.image
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(_clear, files)
            with stage("keys"):
                keys = new_keys()
            blueprint = draw(
                environment, made_of, keys, files, certificates=self._parts.certificates
            )
            await progress(0.4, "Resuming the machine" if moment else "Booting the machine")
            launched, template = await self._machines.bring_up(blueprint, moment)
            undo.push_async_callback(_end, launched)
            proxy = self._new_proxy(environment) if has_network(environment) else None
            guest = LocalGuest(
                launched,
                SshConnection(launched.lease.port, keys, proxy=proxy.serve if proxy else None),
                proxy,
                environment=environment,
                files=files,
                directory=image.directory or HOME,
                booted_from={
                    "image": image.digest,
                    "kernel": made_of.kernel.stem,
                    "kit": made_of.kit.stem,
                    **({"template": template} if template else {}),
                },
                freezer=self.moments and self.moments.freezer(launched, blueprint),
            )
            undo.push_async_callback(guest.disconnect)
            _save_access(files, keys, launched.lease.port)
            await progress(0.8, "Connecting")
            await guest.connect()
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    def _make_directory(self, environment: Environment) -> Path:
        directory = self._directory / environment.id
        directory.mkdir(parents=True, mode=0o700)
        return directory

    async def discard(self, environment: Environment) -> None:
        """Remove what an earlier server left; see `domain.host.EnvironmentHost.discard`."""
        if environment.machine is not None:
            kill_identified(environment.machine)
        shutil.rmtree(self._directory / environment.id, ignore_errors=True)

    def sweep(self, known: Iterable[str] = ()) -> None:
        """Delete directories that no record knows. Call it at start, when nothing runs yet."""
        kept = set(known)
        if self.moments is not None:
            self.moments.sweep()
        if self._directory.is_dir():
            for entry in self._directory.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)

    async def not_ready(self) -> str | None:
        """Why a create would fail right now; see `domain.host.EnvironmentHost.not_ready`."""
        try:
            self._parts.kernel()
            self._parts.kit()
            self._machines.check_ports()
        except WaggleError as error:
            return str(error)
        free = shutil.disk_usage(self._directory.parent).free
        if free < _MIN_FREE_BYTES:
            return f"Only {free >> 20} MiB are free in {self._directory.parent}."
        return await self._images.missing()


@contextlib.asynccontextmanager
async def _clear_errors() -> AsyncGenerator[None]:
    """What may go wrong after the image was found, as errors of a create."""
    try:
        yield
    except GuestLost as error:
        raise BootFailed(f"The machine booted, but then: {error.message}") from error
    except OSError as error:
        raise BootFailed(
            f"The machine's files could not be made: {error.strerror or error}.",
            hint="The server may be out of disk space or file descriptors: see 'waggle doctor'.",
        ) from error


async def _end(launched: Launched[Machine]) -> None:
    await launched.machine.stop()
    launched.lease.release()


def _clear(files: Path) -> None:
    """Remove what a machine that is gone had, but not the moment that it went on from."""
    for path in files.iterdir():
        if path != frozen_in(files):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _save_access(files: Path, keys: EnvironmentKeys, port: int) -> None:
    """What `waggle shell` needs to log in; readable for the server's user only."""
    atomic_write(files / "ssh_key", keys.client.export_private_key(), 0o600)
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    atomic_write(files / "known_hosts", known, 0o600)


def is_root() -> bool:
    """Whether VMMs can be given users of their own."""
    return os.geteuid() == 0
