# SPDX-License-Identifier: Apache-2.0
"""A machine that boots again from its disk: what is asked for first, and what a failure leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from tests.service.local.pretended import (
    NOTHING,
    UNABLE,
    PretendMachine,
    PretendProxy,
    Rig,
    machine_id,
)
from tests.support.vm import environment

from waggle.domain.environment import Environment
from waggle.domain.errors import BootFailed, PortTaken, TimedOut
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.network.use import NetworkUse
from waggle.infra.ssh import SshConnection, new_keys
from waggle.service.local.blueprint import Blueprint, MachineParts, StartedMachine
from waggle.service.local.guest import LocalGuest

pytestmark = pytest.mark.anyio


class TestRestart:
    """Another machine boots from the files of one that has ended, as the same."""

    @pytest.fixture
    def parts(self, rig: Rig) -> MachineParts:
        disk, kernel, kit = [rig.directory / name for name in ("image", "kernel", "kit")]
        for path in (disk, kernel, kit):
            path.write_bytes(b"there")
        image = BootImage("x", "sha256:0", disk, {}, "app", "/work", "zsh")
        described = environment()
        return MachineParts(described.runtime, image, kernel, kit, described.resources)

    def guest(
        self, rig: Rig, parts: MachineParts, *, hangs: bool = False
    ) -> tuple[Environment, LocalGuest]:
        described = environment(network=PUBLIC_NETWORK)
        files = rig.directory / "environments" / described.id
        files.mkdir(parents=True)
        (files / "scratch.img").write_bytes(b"kept")
        keys = new_keys()
        blueprint = Blueprint(parts, {}, files)
        lease = rig.ports.lease()
        machine = PretendMachine(rig.hypervisor.log, hangs=hangs)
        guest = LocalGuest(
            StartedMachine(blueprint, machine, lease),
            SshConnection(lease.port, keys),
            PretendProxy(rig.hypervisor.log, NetworkUse(refused=7)),
            keys=keys,
            environment=described,
            directory="/home/sandbox",
            booted_from={},
            freezing=UNABLE,
        )
        return described, guest

    async def ended(self, rig: Rig, parts: MachineParts) -> tuple[Environment, LocalGuest]:
        described, guest = self.guest(rig, parts)
        rig.host.require_restart(guest)
        assert not await guest.end_machine(3)
        assert rig.hypervisor.log[-3:] == ["shut down 3", "machine", "proxy"]
        return described, guest

    async def test_it_has_the_same_disk_port_and_identity(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        described, guest = await self.ended(rig, parts)
        rig.hypervisor.errors = [BootFailed("It panicked.") for _ in range(4)]
        with pytest.raises(BootFailed):
            await rig.host.restart(described, guest, no_progress)
        spec = rig.hypervisor.specs[0]
        assert spec.ssh_port == guest.ssh_port
        assert spec.disks.scratch.read_bytes() == b"kept"
        own = (machine_id(described), guest.keys.host_key, guest.keys.authorized_keys)
        assert all(record in rig.hypervisor.identity for record in own)
        first = rig.hypervisor.identity
        described, other = await self.ended(rig, parts)
        with pytest.raises(BootFailed):
            await rig.host.restart(described, other, no_progress)
        seeds = [raw[raw.index(b"seed") + 4 :][:64] for raw in (first, rig.hypervisor.identity)]
        assert seeds[0] != seeds[1]

    async def test_a_boot_that_fails_is_tried_once_more(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        described, guest = await self.ended(rig, parts)
        rig.hypervisor.errors = [BootFailed("It panicked."), BootFailed("It panicked again.")]
        with pytest.raises(BootFailed, match="panicked again"):
            await rig.host.restart(described, guest, no_progress)
        assert len(rig.hypervisor.specs) == 2
        (files,), leased = rig.left()
        assert leased == frozenset()
        assert (files / "scratch.img").read_bytes() == b"kept"
        other = rig.ports.lease()
        await guest.destroy()
        assert rig.left() == ([], {other.port})
        other.release()

    async def test_the_record_of_its_network_goes_on(self, rig: Rig, parts: MachineParts) -> None:
        described, guest = await self.ended(rig, parts)
        with pytest.raises(BootFailed, match="does not answer"):
            await rig.host.restart(described, guest, no_progress)
        assert rig.hypervisor.log[3] == "remembered 7 refusals"  # before anything connects
        await guest.destroy()

    async def test_an_end_that_is_cancelled_kills_the_machine_at_once(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        _, guest = self.guest(rig, parts, hangs=True)
        async with anyio.create_task_group() as group:
            group.start_soon(guest.end_machine, 3600)
            while not rig.hypervisor.log:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert rig.hypervisor.log == ["shut down 3600", "machine", "proxy"]
        (files,), leased = rig.left()
        assert ((files / "scratch.img").exists(), leased) == (True, {guest.ssh_port})
        await guest.destroy()
        assert rig.left() == NOTHING

    async def test_a_cancelled_restart_keeps_what_a_destroy_frees(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        described, guest = await self.ended(rig, parts)
        rig.hypervisor.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(rig.host.restart, described, guest, no_progress)
            await rig.hypervisor.booting.wait()
            group.cancel_scope.cancel()
        (files,), leased = rig.left()
        assert ((files / "scratch.img").read_bytes(), leased) == (b"kept", frozenset())
        await guest.destroy()
        assert rig.left() == NOTHING

    async def test_another_port_serves_if_its_own_was_taken(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        described, guest = await self.ended(rig, parts)
        rig.hypervisor.errors = [PortTaken("taken"), BootFailed("a"), BootFailed("b")]
        with pytest.raises(BootFailed):
            await rig.host.restart(described, guest, no_progress)
        tried = [spec.ssh_port for spec in rig.hypervisor.specs]
        assert tried[0] == guest.ssh_port
        assert tried[1] != guest.ssh_port
        await guest.destroy()
        assert rig.left() == NOTHING

    @pytest.mark.parametrize("gone", ["image", "kit", "kernel-full-1.elf", "kernel-full-1.initrd"])
    async def test_a_part_that_is_gone_is_found_before_anything_ends(
        self, rig: Rig, parts: MachineParts, gone: str
    ) -> None:
        """Of the full kernel, also its initramfs."""
        kernel = rig.directory / "kernel-full-1.elf"
        for path in (kernel, kernel.with_suffix(".initrd")):
            path.write_bytes(b"there")
        _, guest = await self.ended(rig, replace(parts, kernel=kernel))
        (rig.directory / gone).unlink()
        with pytest.raises(BootFailed, match=f"{gone} is gone from the server"):
            rig.host.require_restart(guest)
        await guest.destroy()

    async def test_a_machine_that_does_not_die_keeps_its_port(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        _, guest = await self.ended(rig, parts)
        machine = cast("PretendMachine", guest.started.machine)
        machine.stubborn = 1
        with pytest.raises(TimedOut):
            await guest.end_machine(0)
        assert rig.left()[1] == {guest.ssh_port}
        await guest.destroy()
        assert rig.left() == NOTHING
