# SPDX-License-Identifier: Apache-2.0
"""The environments of this host when a part fails: a failed create leaves nothing.

Machines are pretended; ports, files and keys are real. Creates that succeed need a real guest and
are tested in tests/vm and tests/e2e.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.service.local.pretended import MIB, NOTHING, PretendHypervisor, PretendMachine, Rig
from tests.support.small_disk import needs_root, small_disk
from tests.support.vm import environment

from waggle.domain.errors import (
    BootFailed,
    DiskFull,
    FrozenMachineUnusable,
    ImageCorrupt,
    ImageMissing,
    NoPorts,
    PortTaken,
    Unsupported,
)
from waggle.domain.host import no_progress
from waggle.domain.machine import RAM, SCRATCH
from waggle.domain.network import PUBLIC_NETWORK
from waggle.infra.net.ports import PortAllocator
from waggle.infra.ssh import SshConnection, new_keys
from waggle.service.local.blueprint import Blueprint, MachineParts, StartedMachine
from waggle.service.local.frozen import FrozenMachine, frozen_in
from waggle.service.local.warm_machine import WarmKind, WarmMachine
from waggle.service.local.warm_pool import WarmPool

pytestmark = pytest.mark.anyio


async def test_a_missing_image_fails_the_create(rig: Rig) -> None:
    rig.images.there = False
    with pytest.raises(ImageMissing):
        await rig.create()
    assert (rig.left(), rig.hypervisor.specs) == (NOTHING, [])


async def test_a_machine_that_does_not_boot_fails_the_create(rig: Rig) -> None:
    rig.hypervisor.errors = [BootFailed("It panicked.")]
    with pytest.raises(BootFailed, match="It panicked"):
        await rig.create()
    assert rig.left() == NOTHING


async def test_the_identity_disk_holds_what_the_image_asks_for(rig: Rig) -> None:
    rig.images.variables = {"OWN": "x"}
    with pytest.raises(BootFailed):
        await rig.create()
    for wish in (b"userapp", b"directory/work", b"shellzsh", b"OWN=x\0"):
        assert wish in rig.hypervisor.identity


async def test_an_image_with_too_many_variables_is_refused(rig: Rig) -> None:
    rig.images.variables = {"OWN": "x" * (64 << 10)}
    with pytest.raises(ImageCorrupt, match="the variables are over 65536 bytes together"):
        await rig.create()
    assert (rig.left(), rig.hypervisor.specs) == (NOTHING, [])


async def test_a_guest_that_does_not_listen_is_a_failed_boot(rig: Rig) -> None:
    with pytest.raises(BootFailed, match=r"The machine booted, but then: .* does not answer"):
        await rig.create(environment(network=PUBLIC_NETWORK))
    assert rig.hypervisor.log == ["proxy", "machine"]
    assert rig.left() == NOTHING


async def test_a_create_retries_with_another_port_when_one_is_taken(rig: Rig) -> None:
    rig.hypervisor.errors = [PortTaken("taken"), PortTaken("taken")]
    with pytest.raises(BootFailed):
        await rig.create()
    tried = [spec.ssh_port for spec in rig.hypervisor.specs]
    assert len(set(tried)) == 3
    assert rig.left() == NOTHING


async def test_a_create_fails_when_every_port_is_taken(rig: Rig) -> None:
    rig.hypervisor.errors = [PortTaken("taken") for _ in range(9)]
    with pytest.raises(NoPorts):
        await rig.create()
    assert rig.left() == NOTHING


async def test_a_full_disk_or_other_host_error_fails_the_create(rig: Rig) -> None:
    rig.scratch.error = OSError(28, "No space left on device")
    with pytest.raises(DiskFull, match="no room in the directory of environments"):
        await rig.create()
    assert rig.left() == NOTHING
    rig.scratch.error = OSError(24, "Too many open files")
    with pytest.raises(BootFailed, match="Too many open files") as raised:
        await rig.create()
    assert "waggle doctor" in raised.value.hint
    rig.scratch.error = PermissionError(13, "Permission denied")
    with pytest.raises(BootFailed, match="Permission denied") as raised:
        await rig.create()
    assert "'waggle image build' as that user" in raised.value.hint
    assert rig.left() == NOTHING


async def test_a_cancelled_create_leaves_nothing(rig: Rig) -> None:
    rig.hypervisor.hold = True
    async with anyio.create_task_group() as group:
        group.start_soon(rig.create)
        await rig.hypervisor.booting.wait()
        files, leased = rig.left()
        assert (len(files), len(leased)) == (1, 1)
        assert files[0].stat().st_mode & 0o777 == 0o700
        group.cancel_scope.cancel()
    assert rig.left() == NOTHING


async def test_not_ready_says_why_a_create_would_fail(rig: Rig) -> None:
    assert await rig.host.not_ready() is None
    rig.images.there = False
    assert await rig.host.not_ready() == "None of the images is there."
    rig.ports = PortAllocator(10_920, 10_921)
    lease = rig.ports.lease()
    assert "10920" in str(await rig.host.not_ready())
    lease.release()


async def test_disk_use_reports_the_bytes_of_each_environment_and_the_free_bytes(rig: Rig) -> None:
    here = rig.directory / "environments"
    for name in ("running", "on-disk", "socket"):
        (here / name / "frozen").mkdir(parents=True)
    with (here / "running" / "scratch.img").open("wb") as disk:
        disk.write(bytes(MIB))
        disk.truncate(4096 * MIB)  # a hole takes no space
    (here / "on-disk" / "frozen" / "ram").write_bytes(bytes(2 * MIB))
    (here / "resumed" / "frozen").mkdir(parents=True)
    (here / "resumed" / SCRATCH).write_bytes(bytes(MIB))
    (here / "resumed" / RAM).write_bytes(bytes(2 * MIB))
    for name in (SCRATCH, RAM):  # as it is put in place
        (here / "resumed" / "frozen" / name).hardlink_to(here / "resumed" / name)
    (here / "socket" / "link").symlink_to(here / "on-disk" / "frozen" / "ram")
    below = here / "socket" / "console.run"
    below.mkdir()
    (below / "of a hostile VMM").write_bytes(bytes(MIB))
    use = await rig.host.disk_use()
    taken = {name: size // MIB for name, size in use.of_environments.items()}
    assert taken == {"running": 1, "on-disk": 2, "socket": 0, "resumed": 3}
    disks = {name: size // MIB for name, size in use.of_disks.items()}
    assert disks == {"running": 1, "on-disk": 0, "socket": 0, "resumed": 1}
    assert use.free > MIB


async def test_leftovers_of_an_earlier_server_are_removed(rig: Rig) -> None:
    known = environment()
    for name in (known.id, "unknown"):
        (rig.directory / "environments" / name).mkdir(parents=True)
    for _ in range(2):
        await rig.host.discard(known)
    assert [path.name for path in rig.left()[0]] == ["unknown"]
    (rig.directory / "environments" / known.id).mkdir()
    rig.host.sweep([known.id])
    assert [path.name for path in rig.left()[0]] == [known.id]
    rig.host.sweep()
    assert rig.left() == NOTHING


@needs_root
async def test_an_environment_whose_removal_is_interrupted_does_not_come_back(rig: Rig) -> None:
    """A partial state would be listed as paused and could never resume."""
    on_disk = environment()
    files = rig.directory / "environments" / on_disk.id
    frozen_in(files).mkdir(parents=True)
    assert await rig.host.recover(on_disk)
    with small_disk(frozen_in(files) / "held", 1):  # a mount point cannot be deleted
        await rig.host.discard(on_disk)
        assert not await rig.host.recover(on_disk)
    rig.host.sweep()
    assert rig.left() == NOTHING


@dataclass
class PretendPool:
    """A pool of one machine, which is handed out once."""

    machine: WarmMachine | None
    log: list[str]

    def claim(self, kind: WarmKind, parts: MachineParts) -> WarmMachine | None:
        self.log.append(f"claim {kind.runtime} {kind.image} {parts.image.digest}")
        machine, self.machine = self.machine, None
        return machine

    async def make_room(self) -> None:
        self.log.append("room")


async def test_a_pool_machine_that_cannot_be_renewed_is_stopped_and_replaced(
    rig: Rig,
) -> None:
    rig.hypervisor.errors = [BootFailed("It panicked.")]
    log = rig.hypervisor.log
    files = rig.directory / "environments" / "warm-1"
    files.mkdir(parents=True)
    described = environment(network=PUBLIC_NETWORK)
    image = await rig.images.boot_image(described.image, None)
    parts = MachineParts(
        described.runtime, image, Path("/kernel"), Path("/kit"), described.resources
    )
    blueprint = Blueprint(parts, {}, files)
    lease = rig.ports.lease()
    connection = SshConnection(lease.port, new_keys())
    started = StartedMachine(blueprint, PretendMachine(log), lease)
    machine = WarmMachine(started, new_keys(), connection)
    pool = cast("WarmPool[WarmMachine]", PretendPool(machine, log))
    with pytest.raises(BootFailed, match="It panicked"):
        await rig.host_with(pool).create(described, no_progress)
    asks = f"claim {described.runtime} {described.image} sha256:0"
    assert log[0] == asks
    assert log[-2:] == [asks, "room"]
    assert "machine" in log
    assert len(rig.hypervisor.specs) == 1
    assert rig.left() == NOTHING


class UnaskedPool:
    """A pool whose machines do not fit."""

    def claim(self, *_: object) -> None:
        raise AssertionError("its machines are of another hypervisor")

    async def make_room(self) -> None:
        pass


async def test_an_environment_is_made_with_its_own_hypervisor_and_not_from_the_pool(
    rig: Rig,
) -> None:
    another = PretendHypervisor([BootFailed("The other one panicked.")], name="another")
    rig.others = [another]
    pool = cast("WarmPool[WarmMachine]", UnaskedPool())
    described = replace(environment(), hypervisor="another")
    with pytest.raises(BootFailed, match="The other one panicked"):
        await rig.host_with(pool).create(described, no_progress)
    assert (len(another.specs), rig.hypervisor.specs, rig.left()) == (1, [], NOTHING)


async def test_one_whose_hypervisor_is_gone_keeps_its_files(rig: Rig) -> None:
    described = replace(environment(), hypervisor="gone")
    files = frozen_in(rig.directory / "environments" / described.id)
    files.mkdir(parents=True)
    assert await rig.host.recover(described)
    for work in (rig.host.resume(described, no_progress), rig.host.create(described, no_progress)):
        with pytest.raises(Unsupported, match="the hypervisor gone, which this server"):
            await work
    assert files.is_dir()
    assert not rig.host.can_freeze("gone")
    await rig.host.discard(described)
    assert rig.left() == NOTHING


async def test_what_another_hypervisor_froze_is_refused_before_anything_is_made(rig: Rig) -> None:
    rig.others = [PretendHypervisor(name="another")]
    frozen = FrozenMachine(rig.directory, "pretend", *cast("Any", (None, None)))
    described = replace(environment(), hypervisor="another")
    with pytest.raises(FrozenMachineUnusable, match="not frozen by the environment's hypervisor"):
        await rig.host.create(described, no_progress, frozen)
    assert rig.left() == NOTHING
