# SPDX-License-Identifier: Apache-2.0
"""VMMs: those that tests are given, and those that run.

WAGGLE_TEST_FIRECRACKER and WAGGLE_TEST_CLOUD_HYPERVISOR name the program of one, which users bring
themselves. The lab sets the first. Tests add it to a store of their own, as `waggle vmm add` does,
and servers of tests get a copy of that store.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from waggle.config import Settings, load
from waggle.infra.host.hypervisors import choose_acceleration, read_kvm_facts
from waggle.infra.shared.files import FileLock
from waggle.infra.vmm.binaries import Binary, BinaryStore
from waggle.infra.vmm.version import Vmm

VARIABLES: Final[Mapping[Vmm, str]] = {
    Vmm.FIRECRACKER: "WAGGLE_TEST_FIRECRACKER",
    Vmm.CLOUD_HYPERVISOR: "WAGGLE_TEST_CLOUD_HYPERVISOR",
}
CACHE = Path(__file__).parents[2] / ".cache" / "waggle-test"
DATA = CACHE / "data"
"""A data directory that has the programs and nothing else."""
_ADD_SECONDS = 120.0
_USER = re.compile(rb"(?m)^Uid:\t(\d+)")
_FORWARD = re.compile(rb"hostfwd=tcp:127\.0\.0\.2:(\d+)-")
"""QEMU's argument; a server that does not run as root gives its VMMs no users of their own."""


def given(vmm: Vmm) -> Path | None:
    """Return the program that tests are given, if any."""
    name = os.environ.get(VARIABLES[vmm])
    return Path(name) if name else None


def why_not(vmm: Vmm) -> str:
    """Return why machines of a VMM cannot be tested here; empty if they can."""
    program = given(vmm)
    if program is None:
        return f"{VARIABLES[vmm]} names no program of {vmm}"
    if not os.access(program, os.X_OK):
        return f"{VARIABLES[vmm]}={program} is no program"
    acceleration = choose_acceleration("auto", read_kvm_facts())
    return "" if acceleration.accel == "kvm" else acceleration.reason


@functools.cache
def store() -> BinaryStore:
    """Return a store with the programs that tests are given. Blocks."""
    made = BinaryStore(_binaries(DATA))
    programs = [program for vmm in Vmm if (program := given(vmm))]

    async def add() -> None:
        made.directory.mkdir(parents=True, exist_ok=True)
        async with FileLock(CACHE / "vmms.lock", timeout=_ADD_SECONDS):
            for program in programs:
                await made.add(program)

    if programs:
        with ThreadPoolExecutor(1) as thread:  # the caller may be within a loop
            thread.submit(asyncio.run, add()).result()
    return made


def binary(vmm: Vmm) -> Binary:
    """Return the program that tests are given, from the store."""
    return store().newest(vmm)


def provide(data: Path) -> None:
    """Copy the programs that tests are given, if any, to a server's data directory. Idempotent."""
    target = _binaries(data)
    if any(map(given, Vmm)) and not target.exists():
        shutil.copytree(store().directory, target)


def settings() -> Settings:
    """Return this machine's settings, with the programs that tests are given, if any."""
    if not any(map(given, Vmm)):
        return load()
    store()
    return load().model_copy(update={"data_dir": DATA})


def _binaries(data: Path) -> Path:
    return data / "system" / "binaries"


def running() -> Iterator[tuple[int, int]]:
    """Yield the pid and SSH port of each. Its user tells the port, or QEMU's arguments do."""
    base = int(Settings.model_fields["vm_uid_base"].default)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, argv = (entry / "status").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            user = _USER.search(status)
            if argv and user and int(user[1]) > base:  # a zombie has no arguments
                yield int(entry.name), int(user[1]) - base
            elif found := _FORWARD.search(argv):
                yield int(entry.name), int(found[1])
