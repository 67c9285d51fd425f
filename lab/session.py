# SPDX-License-Identifier: Apache-2.0
"""The whole lab: make missing parts, boot outer machines, run jobs, collect the reports.

Called by the command line and by tests/lab.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import base, firecracker, krunfw, lane, libkrun, outer, parts, project, rust
from lab.check import find_program
from lab.display import Display
from lab.jobs import ENVIRONMENT, INSIDE, MACHINES, TOTAL_SECONDS, Job, shares
from lab.lane import Result
from lab.machine import Disks
from lab.store import Store
from waggle.config import Settings
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

DEV_REQUIREMENTS = project.ROOT / "requirements" / "dev.txt"
REPORTS = project.ROOT / ".cache" / "lab"
"""Default place for the reports of the last run."""


@dataclass(frozen=True, slots=True)
class Early:
    """The parts that do not need waggle's images: directories in the store."""

    base: Path
    libkrun: Path
    libkrunfw: Path
    firecracker: Path


@dataclass(frozen=True, slots=True)
class Made:
    """The parts that are kept between runs: directories in the store."""

    base: Path
    libkrun: Path
    parts: Path

    @property
    def libkrun_version(self) -> str:
        """The version, such as 1.19.7."""
        return self.libkrun.name.removeprefix(f"{libkrun.KIND}-").rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Wish:
    """The jobs to run. `reports` is emptied first; `libkrun` is a requirement in cargo's syntax.

    `put` is a file or directory that becomes /lab/put inside; at most `machines` outer machines run
    at once. `cloud_hypervisor` is a program that comes along, see `lab.jobs`.
    """

    jobs: Sequence[Job]
    reports: Path = REPORTS
    libkrun: str = libkrun.ANY
    put: Path | None = None
    machines: int = MACHINES
    total_seconds: float = TOTAL_SECONDS
    """Limit from the start of the outer machines to the end of the last, including repetitions."""
    cloud_hypervisor: Path | None = None


async def prepare(
    settings: Settings, store: Store, work: Path, wish: Wish, display: Display
) -> Made:
    """Make missing parts, all at once; `work` is as in `prepare_early`.

    Raises SetupIncomplete, ImageMissing or TimedOut.
    """
    try:
        async with asyncio.TaskGroup() as group:
            early = group.create_task(prepare_early(settings, store, work, wish.libkrun, display))
            on_line = partial(display.detail, "guest")
            guest = group.create_task(parts.guest_files(settings, on_line, wish.cloud_hypervisor))
    except ExceptionGroup as several:
        raise _first(several) from several
    found = early.result()
    files = {
        **guest.result(),
        **parts.libraries([found.libkrun, found.libkrunfw]),
        **parts.machine_monitors([found.firecracker]),
    }
    disk = await parts.ensure(store, files, partial(display.detail, "parts"))
    return Made(found.base, found.libkrun, disk)


async def prepare_early(
    settings: Settings, store: Store, work: Path, requirement: str, display: Display
) -> Early:
    """Make the parts that need none of waggle's images. Raises SetupIncomplete or TimedOut.

    All are made at once. `work` is an empty directory on the store's file system.
    """
    mirror = await asyncio.to_thread(debian.mirror, settings.debian_mirror or None)
    requirements = DEV_REQUIREMENTS.read_text("utf-8")

    def on_line(what: str) -> Callable[[str], None]:
        return partial(display.detail, what)

    async def toolchain() -> rust.Toolchain:
        kept = await rust.ensure(store, mirror, on_line("Rust"))
        return rust.furnish(kept, work / "rust", rust.Host())

    try:
        async with asyncio.TaskGroup() as group:
            bases = group.create_task(
                base.ensure(store, mirror, requirements, on_line("outer machine"))
            )
            kruns = group.create_task(
                libkrun.ensure(store, toolchain, requirement, on_line("libkrun"))
            )
            firmware = group.create_task(krunfw.ensure(store, mirror, on_line("libkrunfw")))
            vmm = group.create_task(firecracker.ensure(store, on_line("Firecracker")))
    except ExceptionGroup as several:
        raise _first(several) from several
    return Early(bases.result(), kruns.result(), firmware.result(), vmm.result())


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """Return the error of the task that failed first."""
    first: Exception = several.exceptions[0]
    return first


async def run(settings: Settings, store: Store, wish: Wish, display: Display) -> Result:
    """Run all jobs of a wish.

    Cancelling ends everything that it started. Raises SetupIncomplete or a similar error if an
    outer machine cannot be made or started.
    """
    qemu = find_program("qemu-system-x86_64")
    if qemu is None:
        raise SetupIncomplete("QEMU is not installed.", hint="Run 'waggle setup --yes'.")
    _empty(wish.reports)
    environment = ENVIRONMENT if wish.cloud_hypervisor is None else {**ENVIRONMENT, **INSIDE}
    with store.run_directory() as directory:
        made = await _prepared(settings, store, wish, directory, display)

        def new_machine(name: str, jobs: Sequence[Job]) -> outer.Machine:
            machine = _machine(qemu, made, directory / name)
            project.write(machine.disks.project, project.ROOT, jobs, environment, wish.put)
            return machine

        end = asyncio.get_running_loop().time() + wish.total_seconds
        try:
            async with asyncio.TaskGroup() as group:
                lanes = [
                    group.create_task(
                        lane.run(f"machine-{number}", jobs, new_machine, end, wish.reports, display)
                    )
                    for number, jobs in enumerate(shares(wish.jobs, wish.machines), 1)
                ]
        except ExceptionGroup as several:
            raise _first(several) from several
    return lane.joined([task.result() for task in lanes])


def _machine(qemu: str, made: Made, directory: Path) -> outer.Machine:
    """Return an outer machine that writes only to the new `directory`."""
    directory.mkdir()
    disks = Disks(
        parts.place(made.base / base.DISK, directory / base.DISK),
        parts.place(made.parts / parts.DISK, directory / parts.DISK),
        directory / "project.tar",
        directory / "report.tar",
    )
    kernel, initramfs = made.base / base.KERNEL, made.base / base.INITRAMFS
    return outer.Machine(qemu, kernel, initramfs, disks, directory)


async def _prepared(
    settings: Settings, store: Store, wish: Wish, directory: Path, display: Display
) -> Made:
    display.say("making what is missing (kept for the next time)")
    work = directory / "work"
    work.mkdir()
    made = held(await prepare(settings, store, work, wish, display), directory)
    shutil.rmtree(work)
    display.say(f"libkrun {made.libkrun_version}; the outer machines start")
    return made


def held(made: Made, directory: Path) -> Made:
    """Link what machines boot from into the run's directory, and return it there.

    Labs of other branches may displace it in the store before the last machine starts.
    """
    base_there, parts_there = directory / made.base.name, directory / made.parts.name
    for kept, there in ((made.base, base_there), (made.parts, parts_there)):
        for file in kept.iterdir():
            parts.place(file, there / file.name)
    return Made(base_there, made.libkrun, parts_there)


def _empty(directory: Path) -> None:
    """Remove the reports of the previous run, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.log", "*.xml"):
        for old in directory.glob(pattern):
            old.unlink()
