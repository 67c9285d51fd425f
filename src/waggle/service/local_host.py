# SPDX-License-Identifier: Apache-2.0
"""Environments on this machine; implements `domain.host.EnvironmentHost`.

Puts together what one environment needs, in this order: image disk, directory, port, keys, scratch
and identity disks, machine, SSH connection. Whatever fails, what was made before is undone. Knows
the adapters; knows nothing of capacity, clients or MCP.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from waggle.domain.environment import Environment
from waggle.domain.errors import (
    BootFailed,
    GuestLost,
    ImageCorrupt,
    NoPorts,
    PortTaken,
    WaggleError,
)
from waggle.domain.execution import HOME
from waggle.domain.host import Progress
from waggle.domain.image import BootImage, BootImages
from waggle.domain.machine import GuestDisks, Hypervisor, Machine, MachineSpec
from waggle.domain.network import NetworkPolicy
from waggle.infra.confined import kill_identified
from waggle.infra.files import atomic_write
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.infra.rootfs.identity import identity_disk
from waggle.infra.ssh.connection import PROXY_PORT, SshConnection
from waggle.infra.ssh.keys import EnvironmentKeys, new_keys
from waggle.service.guest_setup import guest_variables
from waggle.service.local_guest import LocalGuest, Proxy

PORT_ATTEMPTS = 5
_MIN_FREE_BYTES = 256 << 20


NewProxy = Callable[[Environment], Proxy]


class Scratch(Protocol):
    """Maker of writable disks."""

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`; takes milliseconds. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class GuestParts:
    """What every guest is made of beside its image. `certificates` is PEM or empty."""

    kernel: Callable[[], Path]
    kit: Callable[[], Path]
    scratch: Scratch
    certificates: bytes


class LocalHost:
    """Boots environments with one hypervisor under `directory`, one subdirectory for each."""

    def __init__(
        self,
        *,
        directory: Path,
        hypervisor: Hypervisor,
        images: BootImages,
        parts: GuestParts,
        ports: PortAllocator,
        new_proxy: NewProxy,
        boot_timeout: float,
        uid_base: int | None,
    ) -> None:
        """`uid_base` plus the SSH port is the user of each VMM; None keeps the server's user."""
        self._directory = directory
        self._hypervisor = hypervisor
        self._images = images
        self._parts = parts
        self._ports = ports
        self._new_proxy = new_proxy
        self._boot_timeout = boot_timeout
        self._uid_base = uid_base

    async def create(self, environment: Environment, progress: Progress) -> LocalGuest:
        """Boot and connect; see `domain.host.EnvironmentHost.create`."""
        await progress(0.0, f"Looking up the image {environment.image}")
        image = await self._images.boot_image(environment.image, progress)
        kernel, kit = self._parts.kernel(), self._parts.kit()
        async with _clear_errors(), contextlib.AsyncExitStack() as undo:
            files = self._make_directory(environment)
            undo.callback(shutil.rmtree, files, ignore_errors=True)
            keys = new_keys()
            disks = GuestDisks(kit, image.disk, files / "scratch.img", files / "identity.img")
            await self._parts.scratch.make(environment.resources.disk_mib, disks.scratch)
            disks.identity.write_bytes(self._identity(environment, image, keys))
            await progress(0.4, "Booting the machine")
            machine, lease = await self._boot(environment, kernel, disks, files)
            proxy = self._new_proxy(environment) if _has_network(environment) else None
            guest = LocalGuest(
                machine,
                SshConnection(lease.port, keys, proxy=proxy.serve if proxy else None),
                proxy,
                environment=environment,
                ssh_port=lease.port,
                directory=image.directory or HOME,
                booted_from={"image": image.digest, "kernel": kernel.stem, "kit": kit.stem},
                scratch=disks.scratch,
            )
            guest.owns(lease.release)
            guest.owns(partial(shutil.rmtree, files, ignore_errors=True))
            undo.push_async_callback(guest.destroy)
            _save_access(files, keys, lease.port)
            await progress(0.8, "Connecting")
            await guest.connect()
            await progress(1.0, "Ready")
            undo.pop_all()
        return guest

    def _make_directory(self, environment: Environment) -> Path:
        directory = self._directory / environment.id
        directory.mkdir(parents=True, mode=0o700)
        return directory

    def _identity(self, environment: Environment, image: BootImage, keys: EnvironmentKeys) -> bytes:
        variables: Mapping[str, str] = guest_variables(
            image.variables,
            proxy_port=PROXY_PORT if _has_network(environment) else None,
            has_certificates=bool(self._parts.certificates),
        )
        try:
            return identity_disk(
                host_key=keys.host_key,
                authorized_keys=keys.authorized_keys,
                hostname=environment.name,
                environment=variables,
                certificates=self._parts.certificates,
                user=image.user,
                directory=image.directory,
                shell=image.shell,
            )
        except ValueError as error:
            raise ImageCorrupt(
                f"The image's configuration cannot be given to a machine: {error}.",
                hint="Choose another image, or make this one with fewer or shorter variables.",
            ) from error

    async def _boot(
        self,
        environment: Environment,
        kernel: Path,
        disks: GuestDisks,
        files: Path,
    ) -> tuple[Machine, PortLease]:
        """Boot on a leased port; when something else takes that port in between, on another.

        The caller stops the machine and, once it is dead, releases the lease.
        """
        for _ in range(PORT_ATTEMPTS):
            lease = self._ports.lease()
            spec = MachineSpec(
                id=environment.id,
                resources=environment.resources,
                kernel=kernel,
                disks=disks,
                ssh_port=lease.port,
                console_log=files / "console.log",
                boot_timeout=self._boot_timeout,
                uid=None if self._uid_base is None else self._uid_base + lease.port,
            )
            try:
                machine = await self._hypervisor.boot(spec)
            except PortTaken:
                lease.release()
                continue
            except BaseException:
                lease.release()
                raise
            return machine, lease
        raise NoPorts("Other programs keep taking the ports of this range.")

    async def discard(self, environment: Environment) -> None:
        """Remove what an earlier server left; see `domain.host.EnvironmentHost.discard`."""
        if environment.machine is not None:
            kill_identified(environment.machine)
        shutil.rmtree(self._directory / environment.id, ignore_errors=True)

    def sweep(self) -> None:
        """Delete directories that no record knows. Call it at start, when nothing runs yet."""
        if self._directory.is_dir():
            for entry in self._directory.iterdir():
                shutil.rmtree(entry, ignore_errors=True)

    async def not_ready(self) -> str | None:
        """Why a create would fail right now; see `domain.host.EnvironmentHost.not_ready`."""
        try:
            self._parts.kernel()
            self._parts.kit()
            self._ports.lease().release()
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


def _has_network(environment: Environment) -> bool:
    return environment.network is not NetworkPolicy.NONE


def _save_access(files: Path, keys: EnvironmentKeys, port: int) -> None:
    """What `waggle shell` needs to log in; readable for the server's user only."""
    atomic_write(files / "ssh_key", keys.client.export_private_key(), 0o600)
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    atomic_write(files / "known_hosts", known, 0o600)


def is_root() -> bool:
    """Whether VMMs can be given users of their own."""
    return os.geteuid() == 0
