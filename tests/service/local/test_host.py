# SPDX-License-Identifier: Apache-2.0
"""The environments of this host when a part fails: a failed create leaves nothing.

Machines are pretended; ports, files and keys are real. Creates that succeed need a real guest and
are tested in tests/vm and tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, cast

import anyio
import anyio.lowlevel
import pytest
from tests.support.hostile_ssh import hostile
from tests.support.small_disk import needs_root, small_disk
from tests.support.vm import environment

from waggle.domain.environment import Environment
from waggle.domain.errors import (
    BootFailed,
    DiskFull,
    GuestLost,
    GuestMisbehaves,
    ImageCorrupt,
    ImageMissing,
    NoPorts,
    PortTaken,
    TimedOut,
    WaggleError,
)
from waggle.domain.guest_agent import GuestAgent
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.machine import GuestDisks, MachineSpec, Resources, VmmProcess
from waggle.domain.network import PUBLIC_NETWORK, Network
from waggle.domain.network.use import NetworkUse
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.infra.ssh import ServeTunnel, SshConnection, SshSilent, new_keys
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.run.launcher import CommandSession
from waggle.service.local.blueprint import (
    Blueprint,
    GuestParts,
    Launcher,
    LocalMachines,
    MachineParts,
    StartedMachine,
)
from waggle.service.local.diagnostician import Causes
from waggle.service.local.frozen import CannotFreeze, Freezing, frozen_in
from waggle.service.local.frozen.templates import NoTemplates
from waggle.service.local.guest import LocalGuest
from waggle.service.local.health import NotAsked
from waggle.service.local.host import LocalHost
from waggle.service.local.warm_machine import WarmKind, WarmMachine
from waggle.service.local.warm_pool import WarmPool

pytestmark = pytest.mark.anyio

IDENTITY = VmmProcess(2**22 + 1, 0, "none")
"""An identity that no process has."""


@dataclass
class PretendMachine:
    """A machine whose guest never listens. `stubborn` is how often `stop` fails first.

    One that `hangs` never ends by itself.
    """

    log: list[str]
    stubborn: int = 0
    hangs: bool = False
    dead: anyio.Event = field(default_factory=anyio.Event)
    identity: VmmProcess = IDENTITY

    @property
    def is_alive(self) -> bool:
        return not self.dead.is_set()

    def console_tail(self) -> Sequence[str]:
        return []

    async def wait(self) -> str:
        await self.dead.wait()
        return "it was unplugged"

    @property
    def agent(self) -> GuestAgent:
        raise GuestLost("no agent")

    async def renew(self, records: Mapping[str, bytes]) -> None:
        raise GuestLost("It cannot be renewed.")

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Do nothing: its disk is never full."""

    async def settle(self) -> None:
        raise GuestLost("It cannot be held.")

    async def freeze(self, disks: GuestDisks) -> NoReturn:
        raise GuestLost("It cannot be held.")

    async def pause(self) -> None:
        raise GuestLost("It cannot be held.")

    async def unpause(self) -> None:
        raise GuestLost("It cannot be held.")

    async def shut_down(self, seconds: float) -> bool:
        self.log.append(f"shut down {seconds:g}")
        if self.hangs:
            await anyio.sleep_forever()
        return False

    async def stop(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.stubborn:
            self.stubborn -= 1
            raise TimedOut("It does not die.")
        self.log.append("machine")
        self.dead.set()


@dataclass
class PretendHypervisor:
    """A hypervisor that raises `errors` in turn, then boots. With `hold` it boots forever."""

    errors: list[Exception] = field(default_factory=list[Exception])
    specs: list[MachineSpec] = field(default_factory=list[MachineSpec])
    log: list[str] = field(default_factory=list[str])
    hold: bool = False
    identity: bytes = b""
    booting: anyio.Event = field(default_factory=anyio.Event)
    name: str = "pretend"

    async def boot(self, spec: MachineSpec) -> PretendMachine:
        self.specs.append(spec)
        self.identity = spec.disks.identity.read_bytes()
        self.booting.set()
        if self.hold:
            await anyio.sleep_forever()
        if self.errors:
            raise self.errors.pop(0)
        return PretendMachine(self.log)


@dataclass
class PretendProxy:
    log: list[str]
    use: NetworkUse | None = None

    @property
    def serve(self) -> ServeTunnel:
        async def refuse(_reader: object, writer: object) -> None:
            raise AssertionError("nobody connects")

        return refuse

    def lead_home(self, connect: object, hostname: str) -> None:
        pass

    def network_use(self) -> NetworkUse:
        assert self.use is not None, "nothing runs"
        return self.use

    def remember(self, use: NetworkUse) -> None:
        self.log.append(f"remembered {use.refused} refusals")

    @property
    def network(self) -> Network:
        return PUBLIC_NETWORK

    def set_network(self, network: object, registries: object = None) -> int:
        raise AssertionError("nothing changes")

    async def aclose(self) -> None:
        self.log.append("proxy")


@dataclass
class Images:
    """One image, or none."""

    there: bool = True
    variables: dict[str, str] = field(default_factory=dict[str, str])

    async def boot_image(self, reference: str, progress: object, owner: str = "") -> BootImage:
        if not self.there:
            raise ImageMissing("There is no image.", hint="Build it.")
        return BootImage(
            reference, "sha256:0", Path("/image"), self.variables, "app", "/work", "zsh"
        )

    async def missing(self) -> str | None:
        return None if self.there else "None of the images is there."


@dataclass
class Scratch:
    error: OSError | None = None

    async def make(self, mib: int, target: Path) -> None:
        if self.error is not None:
            raise self.error
        target.write_bytes(b"")


@dataclass
class Rig:
    """A host and its parts."""

    directory: Path
    hypervisor: PretendHypervisor = field(default_factory=PretendHypervisor)
    images: Images = field(default_factory=Images)
    scratch: Scratch = field(default_factory=Scratch)
    ports: PortAllocator = field(default_factory=lambda: PortAllocator(10_900, 10_920))

    @property
    def host(self) -> LocalHost:
        return self.host_with(None)

    def host_with(self, pool: WarmPool[WarmMachine] | None) -> LocalHost:
        launcher = Launcher(self.ports, boot_timeout=1.0, uid_base=None)
        parts = GuestParts(lambda: Path("/kernel"), lambda: Path("/kit"), self.scratch, b"")
        return LocalHost(
            directory=self.directory / "environments",
            machines=LocalMachines(self.hypervisor, launcher, self.scratch, UNABLE, NoTemplates()),
            images=self.images,
            parts=parts,
            new_proxy=lambda _environment: PretendProxy(self.hypervisor.log),
            freezing=UNABLE,
            pool=pool,
        )

    def left(self) -> tuple[list[Path], frozenset[int]]:
        return list((self.directory / "environments").glob("*")), self.ports.leased

    async def create(self, described: Environment | None = None) -> LocalGuest:
        return await self.host.create(described or environment(), no_progress)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


MIB = 1 << 20
UNABLE = CannotFreeze("This one cannot freeze machines.", hint="Choose another.")
NOTHING: tuple[list[Path], frozenset[int]] = ([], frozenset())


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
    (here / "socket" / "link").symlink_to(here / "on-disk" / "frozen" / "ram")
    below = here / "socket" / "console.run"
    below.mkdir()
    (below / "of a hostile VMM").write_bytes(bytes(MIB))
    use = await rig.host.disk_use()
    taken = {name: size // MIB for name, size in use.of_environments.items()}
    assert taken == {"running": 1, "on-disk": 2, "socket": 0}
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


class PretendLock:
    def close(self) -> None:
        pass


@pytest.mark.parametrize("hint,says", [(None, "Call again. If"), ("Wait a bit.", "Wait a bit. If")])
async def test_a_call_that_a_living_machine_breaks_names_the_restart(
    hint: str | None, says: str
) -> None:
    async def unasked() -> str:
        raise AssertionError("it answers")

    causes = Causes(PretendMachine([]), lambda: None, unasked)
    with pytest.raises(GuestLost, match="no answer") as raised:
        async with causes.named():
            raise GuestLost("no answer", hint=hint)
    assert raised.value.hint.startswith(says)
    assert "restart_environment" in raised.value.hint


async def test_what_was_not_asked_waits_for_no_death() -> None:
    """As get_environment while a silent agent is left alone: nothing has just broken."""
    machine = PretendMachine([])
    causes = Causes(machine, lambda: None, known)
    began = time.monotonic()
    with pytest.raises(GuestLost, match="does not answer") as raised:
        async with causes.named():
            raise NotAsked("The guest's agent does not answer.")
    assert time.monotonic() - began < 0.5
    assert "restart_environment" in raised.value.hint
    machine.dead.set()
    with pytest.raises(GuestLost, match="The machine died"):
        async with causes.named():
            raise NotAsked("The guest's agent does not answer.")


async def known() -> str:
    return "Its agent says: all is well."


async def test_a_silent_ssh_server_is_explained_by_the_agent() -> None:
    causes = Causes(PretendMachine([]), lambda: None, known)
    with pytest.raises(SshSilent) as raised:
        async with causes.named():
            raise SshSilent("It does not answer.", hint="Wait a bit.")
    assert raised.value.message == "It does not answer. Its agent says: all is well."
    assert raised.value.hint.startswith("Wait a bit.")
    assert "restart_environment" in raised.value.hint


@pytest.mark.parametrize("error", [SshSilent("It does not answer."), GuestLost("It broke.")])
async def test_the_agent_is_not_asked_about_a_dead_machine_or_another_error(
    error: GuestLost,
) -> None:
    async def unasked() -> str:
        raise AssertionError("nobody asks")

    machine = PretendMachine([])
    if isinstance(error, SshSilent):
        machine.dead.set()
    causes = Causes(machine, lambda: None, unasked)
    with pytest.raises(GuestLost) as raised:
        async with causes.named():
            raise error
    assert ("The machine died" in raised.value.message) is isinstance(error, SshSilent)


async def test_the_agent_is_not_asked_about_a_guest_that_is_being_destroyed() -> None:
    async def unasked() -> str:
        raise AssertionError("nobody asks")

    causes = Causes(PretendMachine([]), lambda: None, unasked)
    causes.ends("The environment is being destroyed.")
    with pytest.raises(GuestLost, match="being destroyed"):
        async with causes.named():
            raise SshSilent("It does not answer.")


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
        blueprint = Blueprint(parts, {"machine-id": b"the same\n"}, files)
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
        own = (b"machine-idthe same\n", guest.keys.host_key, guest.keys.authorized_keys)
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

    async def test_a_part_that_is_gone_is_found_before_anything_ends(
        self, rig: Rig, parts: MachineParts
    ) -> None:
        _, guest = await self.ended(rig, parts)
        parts.kit.unlink()
        with pytest.raises(BootFailed, match="kit is gone from the server"):
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


class TestGuest:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def make(
        self,
        machine: PretendMachine,
        log: list[str],
        connection: SshConnection | None = None,
        freezing: Freezing = UNABLE,
    ) -> LocalGuest:
        files = Path(tempfile.mkdtemp(dir=self.directory))
        resources = Resources(1, 64, 1)
        image = BootImage("x", "sha256:0", files / "image", {})
        parts = MachineParts(RuntimeName.SHELL, image, files / "kernel", files / "kit", resources)
        blueprint = Blueprint(parts, {}, files)

        def forget(_port: int) -> None:
            log.append("port, files remain" if files.exists() else "files and port")

        return LocalGuest(
            StartedMachine(blueprint, machine, PortLease(1, PretendLock(), forget)),
            connection or SshConnection(1, new_keys()),
            PretendProxy(log),
            keys=new_keys(),
            environment=environment(),
            directory="/home/sandbox",
            booted_from={},
            freezing=freezing,
        )

    async def test_the_agent_of_a_paused_machine_is_not_lost(self) -> None:
        guest = self.make(PretendMachine([]), [])
        for pause in (guest.pause, guest.pause_to_disk):
            with pytest.raises(WaggleError):
                await pause()
            assert (await guest.report(), await guest.load()) == (None, None)
            with pytest.raises(GuestLost):
                await guest.unpause()  # it runs in any case
            for ask in (guest.report, guest.load):
                with pytest.raises(GuestLost):
                    await ask()

    async def test_the_agent_of_a_machine_that_is_copied_is_not_lost(self) -> None:
        class Slow:
            @contextlib.asynccontextmanager
            async def freeze(self, _started: StartedMachine) -> AsyncGenerator[str]:
                said.append(await guest.report())
                yield "frozen"

        said: list[object] = []
        guest = self.make(PretendMachine([]), [], freezing=cast("Freezing", Slow()))
        async with guest.freeze():
            assert said == [None]
            with pytest.raises(GuestLost):
                await guest.report()  # its machine goes on while the copy is kept

    async def test_nothing_is_sent_to_a_machine_that_is_copied(self) -> None:
        """Its copy would have it, too, and answer that when it is given its identity."""

        class Held:
            @contextlib.asynccontextmanager
            async def freeze(self, _started: StartedMachine) -> AsyncGenerator[str]:
                began.set()
                await goes_on.wait()
                yield "frozen"

        class Renewed(PretendMachine):
            async def renew(self, records: Mapping[str, bytes]) -> None:
                self.log.extend(records)

        began, goes_on = anyio.Event(), anyio.Event()
        sent: list[str] = []
        guest = self.make(Renewed(sent), [], freezing=cast("Freezing", Held()))

        async def copy() -> None:
            async with guest.freeze():
                pass

        copying = asyncio.create_task(copy())
        await began.wait()
        telling = asyncio.create_task(guest.renew_network())
        await anyio.wait_all_tasks_blocked()
        assert sent == []
        goes_on.set()
        await asyncio.gather(telling, copying)
        assert sent == ["network"]

    async def test_a_destroy_releases_everything_once_the_machine_is_dead(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log), log)
        for _ in range(2):
            await guest.destroy()
        assert log == ["machine", "proxy", "files and port", "machine", "proxy"]

    async def test_a_machine_that_does_not_die_keeps_its_port_for_a_retry(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log, stubborn=2), log)
        for _ in range(2):
            with pytest.raises(TimedOut):
                await guest.destroy()
        assert not any("port" in entry for entry in log)
        await guest.destroy()
        assert log[-3:] == ["machine", "proxy", "files and port"]

    async def test_a_cancelled_destroy_still_finishes(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log), log)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.destroy()
        assert log == ["machine", "proxy", "files and port"]

    async def test_a_guest_whose_ssh_server_floods_is_reported_until_it_is_destroyed(self) -> None:
        log: list[str] = []
        async with hostile() as (port, keys):
            connection = SshConnection(port, keys)
            guest = self.make(PretendMachine(log), log, connection)
            errors: list[GuestMisbehaves] = []
            guest.when_misbehaves(errors.append)
            session = CommandSession(100)
            await open_exec(await connection.get(), session, "attack debug", window=100_000)
            await session.ended.wait()
            for _ in range(2):
                with pytest.raises(GuestMisbehaves, match="over 1,000 control packets") as raised:
                    await guest.run(Command(("true",), 5.0, 100))
                assert raised.value.code == "guest_misbehaves"
                assert "Destroy it" in raised.value.hint
            assert ["over 1,000 control packets" in error.message for error in errors] == [True]
            await guest.destroy()
        assert log[0] == "machine"

    async def test_a_call_interrupted_by_a_destroy_says_so(self) -> None:
        log: list[str] = []
        async with hostile() as (port, keys):
            connection = SshConnection(port, keys)
            guest = self.make(PretendMachine(log), log, connection)
            await connection.get()
            calls = [
                asyncio.create_task(guest.list_files("/")),
                asyncio.create_task(guest.report()),
            ]
            for _ in range(2):
                await guest.destroy()
            for call in calls:
                with pytest.raises(GuestLost) as raised:
                    await call
                assert raised.value.message == "The environment is being destroyed."
                assert raised.value.hint == "Its files are gone: create a new environment."

    async def test_a_dead_machine_is_cleared_away_and_its_death_still_reported(self) -> None:
        log: list[str] = []
        machine = PretendMachine(log)
        guest = self.make(machine, log)
        machine.dead.set()
        await guest.destroy()
        with pytest.raises(GuestLost, match="The machine died: it was unplugged"):
            await guest.connect()

    async def test_an_interrupted_call_reports_the_death_of_the_machine(self) -> None:
        log: list[str] = []
        machine = PretendMachine(log)
        guest = self.make(machine, log)
        machine.dead.set()
        with pytest.raises(GuestLost, match="The machine died: it was unplugged") as raised:
            await guest.connect()
        assert "create a new environment" in raised.value.hint
