# SPDX-License-Identifier: Apache-2.0
"""Real machines for tests: the parts they boot from, made once, and hosts that boot them.

Uses the kernel and kit of `./task setup`; missing parts are made in `.cache/waggle-test`, keyed by
their ingredients, so a second test run finds them. `Lab` boots guests and destroys them when it
closes. The conftest files of directories that boot machines import the fixtures below.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict, Unpack

import pytest
from tests.support import vmms
from tests.support.images import busybox_layer, write_layout
from tests.support.leaks import Leaks

from waggle.app.hypervisors import hypervisors
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.environment import Environment
from waggle.domain.errors import ImageMissing
from waggle.domain.host import no_progress
from waggle.domain.hypervisor import ByHypervisor, can_freeze
from waggle.domain.image import BootImage
from waggle.domain.machine import FreezingHypervisor, Hypervisor, Resources
from waggle.domain.network import NO_NETWORK, Network
from waggle.domain.programs import Command, ExecutionResult, GuestUser
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.ports import PortAllocator
from waggle.infra.rootfs.full_kernel import FullKernel
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.service.local.blueprint import GuestParts, Launcher, LocalMachines
from waggle.service.local.frozen import CannotFreeze, Freezer, Freezing
from waggle.service.local.frozen.templates import NoTemplates, Templates
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost, NewProxy, is_root
from waggle.service.local.images.images import ImageService
from waggle.service.local.warm_machine import WarmMachine
from waggle.service.local.warm_pool import WarmPool

CACHE = Path(__file__).parents[2] / ".cache" / "waggle-test"
BOOT_SECONDS = load().boot_timeout.total_seconds()
"""Limit for machines that share two busy cores and have no hardware virtualisation."""
BUSYBOX = "busybox"
PYTHON = "python"
_UID_BASE = 1_900_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of every machine."""

    kernel: Path
    kit: Path


def parts_of(hypervisor: Hypervisor, parts: Parts) -> Parts:
    """Return the parts of its machines: those that run containers have the full kernel."""
    if not hypervisor.capabilities.containers:
        return parts
    return replace(parts, kernel=FullKernel(parts.kit.parent).require())


@dataclass(slots=True)
class Images:
    """The images that tests have made; implements `domain.image.BootImages`."""

    known: dict[str, BootImage] = field(default_factory=dict[str, BootImage])

    async def boot_image(self, reference: str, progress: object, owner: str = "") -> BootImage:
        if reference not in self.known:
            raise ImageMissing(f"There is no image {reference}.")
        return self.known[reference]

    async def missing(self) -> str | None:
        return None


async def no_names(host: str) -> list[Address]:
    """Resolve nothing: a test that needs a proxy makes its own."""
    raise OSError(f"{host} is not to be resolved here")


def deny_all(environment: Environment) -> EgressProxy:
    return EgressProxy(AddressPolicy([]), no_names, reach=Reach(environment.network))


@dataclass(slots=True)
class Lab:
    """Boots guests under one directory. `ports` shows the leases; `close` ends all guests."""

    parts: Parts
    directory: Path
    images: Images
    hypervisor: Hypervisor
    ports: PortAllocator = field(default_factory=lambda: PortAllocator(23_000, 24_000))
    new_proxy: NewProxy = deny_all
    boot_timeout: float = BOOT_SECONDS
    certificates: bytes = b""
    templates: Templates | NoTemplates = field(default_factory=NoTemplates)
    pool: WarmPool[WarmMachine] | None = None
    _guests: list[LocalGuest] = field(default_factory=list[LocalGuest])

    def __post_init__(self) -> None:
        self.parts = parts_of(self.hypervisor, self.parts)

    @property
    def environments(self) -> Path:
        return self.directory / "environments"

    def launcher(self) -> Launcher:
        return Launcher(
            self.ports,
            boot_timeout=self.boot_timeout,
            uid_base=_UID_BASE if is_root() else None,
        )

    def host(self) -> LocalHost:
        parts = GuestParts(
            kernel=lambda: self.parts.kernel,
            kit=lambda: self.parts.kit,
            scratch=ScratchDisks(CACHE / "disks"),
            certificates=self.certificates,
        )
        freezing: Freezing = CannotFreeze("It cannot freeze machines.", hint="")
        if can_freeze(self.hypervisor):
            place = self.directory / "frozen"
            freezing = Freezer(self.hypervisor, place, CACHE / "disks", parts)
        return LocalHost(
            directory=self.environments,
            machines=ByHypervisor(
                LocalMachines(self.hypervisor, self.launcher(), parts, freezing, self.templates)
            ),
            images=self.images,
            new_proxy=self.new_proxy,
            pool=self.pool,
        )

    async def guest(
        self,
        image: str = BUSYBOX,
        *,
        memory: int = 192,
        cpus: int = 1,
        disk: int = 128,
        network: Network = NO_NETWORK,
    ) -> LocalGuest:
        """Boot a guest; `memory` and `disk` are MiB."""
        wanted = environment(image, Resources(cpus, memory, disk), network)
        return self.adopt(await self.host().create(wanted, no_progress))

    def adopt(self, guest: LocalGuest) -> LocalGuest:
        """Destroy the guest when the lab closes."""
        self._guests.append(guest)
        return guest

    async def close(self) -> None:
        """Destroy every guest. Idempotent."""
        while self._guests:
            await self._guests.pop().destroy()


def freezing_of(lab: Lab) -> FreezingHypervisor:
    """Return the lab's hypervisor; skip the test if its machines cannot be frozen."""
    if can_freeze(lab.hypervisor):
        return lab.hypervisor
    pytest.skip(f"NOT TESTED: {lab.hypervisor.name} freezes no machines")


def environment(
    image: str = BUSYBOX,
    resources: Resources | None = None,
    network: Network = NO_NETWORK,
) -> Environment:
    now = datetime.now(UTC)
    return Environment(
        id=str(uuid.uuid4()),
        name="test-1",
        runtime=RuntimeName.SHELL,
        image=image,
        owner="tests",
        resources=resources or Resources(1, 192, 128),
        network=network,
        idle_timeout=timedelta(minutes=30),
        created_at=now,
        last_used_at=now,
    )


class Options(TypedDict, total=False):
    """The options of a command that a test may change."""

    timeout: float
    output_limit: int
    code: bytes | None
    extension: str
    apart: bool
    stdin: bytes
    cwd: str
    env: Mapping[str, str]
    user: GuestUser


def command(*argv: str, **options: Unpack[Options]) -> Command:
    """Return a command with a timeout that is long enough on a busy machine."""
    return replace(Command(argv, timeout=60.0, output_limit=200_000), **options)


def sh(script: str, **options: Unpack[Options]) -> Command:
    """Return a script for busybox's shell, which every guest has in its kit."""
    return command("/.waggle/bin/busybox", "sh", "-c", script, **options)


async def root(guest: LocalGuest, script: str, **options: Unpack[Options]) -> str:
    """Run a script as root and return its output; it must succeed."""
    options["user"] = GuestUser.ROOT
    result = await guest.run(sh(script, **options))
    assert result.exit_code == 0, (result, result.stderr.text())
    return result.stdout.text()


def lines(result: ExecutionResult) -> list[str]:
    """Return the output lines of a successful command."""
    assert result.exit_code == 0, (result, result.stderr.text())
    return result.stdout.text().splitlines()


def machines() -> Hypervisor:
    """Return the server's hypervisor here: WAGGLE_HYPERVISOR, or the best usable one."""
    return hypervisors(vmms.settings()).first


@pytest.fixture(scope="session")
async def guest_parts() -> Parts:
    """Return kernel and kit of `./task setup`, or make them, which takes a minute."""
    settings = load()
    own = CACHE / "guest"
    places = (Places.of(settings).guest, own)
    ready = (place for place in places if GuestKit(place).path.exists())
    directory = next((place for place in ready if GuestKernel(place).path.exists()), own)
    directory.mkdir(parents=True, exist_ok=True)
    kernel = await GuestKernel(directory).ensure(settings.debian_mirror)
    kit = await GuestKit(directory).ensure(settings.debian_mirror)
    return Parts(kernel, kit)


@pytest.fixture(scope="session")
async def full_parts(guest_parts: Parts) -> Parts:
    """Return the full kernel, kept with the kit or made now, which takes half a minute."""
    kernel = FullKernel(guest_parts.kit.parent)
    return replace(guest_parts, kernel=await kernel.ensure(load().debian_mirror))


@pytest.fixture(scope="session")
async def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> BootImage:
    """An image that contains only /bin/busybox, and boots fastest."""
    layout = tmp_path_factory.mktemp("busybox") / "layout"
    write_layout(layout, [busybox_layer()], compression="")
    images = ImageService(
        store=CACHE / "images", disks=CACHE / "disks", layers=CACHE / "layers", runtimes={}
    )
    return await images.boot_image(str(layout), no_progress)


@pytest.fixture(scope="session")
async def python_image() -> BootImage:
    """The real python image of this machine's store. Without it: `waggle image build python`."""
    from waggle.app.root import image_service

    return await image_service(load()).boot_image(PYTHON, no_progress)


@contextlib.asynccontextmanager
async def lab_in(directory: Path, parts: Parts, image: BootImage) -> AsyncGenerator[Lab]:
    """Run a lab that knows one image under the name BUSYBOX."""
    directory.chmod(0o755)  # every machine's process has its own user
    lab = Lab(parts, directory, Images({BUSYBOX: image}), machines())
    try:
        yield lab
    finally:
        await lab.close()


@pytest.fixture
async def lab(tmp_path: Path, guest_parts: Parts, busybox_image: BootImage) -> AsyncGenerator[Lab]:
    """A lab for machines that a test damages or boots itself."""
    async with lab_in(tmp_path, guest_parts, busybox_image) as lab:
        yield lab


@pytest.fixture(scope="module")
async def shared_lab(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts, busybox_image: BootImage
) -> AsyncGenerator[Lab]:
    """A lab for machines that the tests of a module share."""
    async with lab_in(tmp_path_factory.mktemp("lab"), guest_parts, busybox_image) as lab:
        yield lab


@pytest.fixture(scope="module")
async def guest(shared_lab: Lab) -> LocalGuest:
    """A machine for all tests of a module that leave it unchanged."""
    return await shared_lab.guest(cpus=2, memory=256)


@pytest.fixture
async def leaks() -> AsyncGenerator[Leaks]:
    """Check that a test leaves nothing behind; resources that a module shares exist before.

    Modules ask for it with `pytest.mark.usefixtures("leaks")`, which puts it before all others.
    """
    watch = Leaks()
    yield watch
    await watch.settle()
