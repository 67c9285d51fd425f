# SPDX-License-Identifier: Apache-2.0
"""Pretended parts of this host, and the host made of them. Ports, files and keys are real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.lowlevel
from tests.support.vm import environment

from waggle.domain.environment import Environment
from waggle.domain.errors import DiskFull, GuestLost, ImageMissing, TimedOut
from waggle.domain.guest_agent import GuestAgent
from waggle.domain.host import no_progress
from waggle.domain.hypervisor import ByHypervisor
from waggle.domain.image import BootImage
from waggle.domain.machine import Capabilities, GuestDisks, MachineSpec, VmmProcess, Written
from waggle.domain.network import PUBLIC_NETWORK, Network
from waggle.domain.network.use import NetworkUse
from waggle.infra.net.ports import PortAllocator
from waggle.infra.rootfs.machine_disks import machine_records
from waggle.infra.ssh import ServeTunnel
from waggle.service.local.blueprint import GuestParts, Launcher, LocalMachines
from waggle.service.local.frozen import CannotFreeze
from waggle.service.local.frozen.templates import NoTemplates
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost
from waggle.service.local.warm_machine import WarmMachine
from waggle.service.local.warm_pool import WarmPool

MIB = 1 << 20
UNABLE = CannotFreeze("This one cannot freeze machines.", hint="Choose another.")
NOTHING: tuple[list[Path], frozenset[int]] = ([], frozenset())


IDENTITY = VmmProcess(2**22 + 1, 0, "none")
"""An identity that no process has."""


def machine_id(described: Environment) -> bytes:
    """Return how the machine id of an environment is on its identity disk."""
    return b"machine-id" + machine_records(described.id, b"")["machine-id"]


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

    async def was_killed(self, seconds: float = 0.0) -> bool:
        return False

    @property
    def agent(self) -> GuestAgent:
        raise GuestLost("no agent")

    async def renew(self, records: Mapping[str, bytes]) -> None:
        raise GuestLost("It cannot be renewed.")

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Do nothing: its disk is never full."""

    async def settle(self) -> None:
        raise GuestLost("It cannot be held.")

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> NoReturn:
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


_PLAIN = Capabilities(freezes=False, stops_when_full=False)


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
    capabilities: Capabilities = _PLAIN

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
    others: Sequence[PretendHypervisor] = ()
    """Hypervisors after the first."""

    @property
    def host(self) -> LocalHost:
        return self.host_with(None)

    def host_with(self, pool: WarmPool[WarmMachine] | None) -> LocalHost:
        launcher = Launcher(self.ports, boot_timeout=1.0, uid_base=None)
        parts = GuestParts(lambda: Path("/kernel"), lambda: Path("/kit"), self.scratch, b"")
        return LocalHost(
            directory=self.directory / "environments",
            machines=ByHypervisor(
                *(
                    LocalMachines(one, launcher, parts, UNABLE, NoTemplates())
                    for one in (self.hypervisor, *self.others)
                )
            ),
            images=self.images,
            new_proxy=lambda _environment: PretendProxy(self.hypervisor.log),
            pool=pool,
        )

    def left(self) -> tuple[list[Path], frozenset[int]]:
        return list((self.directory / "environments").glob("*")), self.ports.leased

    async def create(self, described: Environment | None = None) -> LocalGuest:
        return await self.host.create(described or environment(), no_progress)
