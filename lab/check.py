# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run the lab, and whether it needs to. `judge` is pure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import libkrun
from lab.store import Store
from waggle.infra.host.accel import KvmFacts, read_kvm_facts

_PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
PROGRAMS = {
    "qemu-system-x86_64": "waggle setup --yes",
    "mmdebstrap": "waggle setup --yes",
    "mke2fs": "waggle setup --yes",
    "setpriv": "apt-get install util-linux",
    "git": "apt-get install git",
    "cc": "apt-get install gcc libc6-dev",
    "cargo": "install Rust 1.85 or newer; Debian 12's own is too old",
}
OLDEST_CARGO = (1, 85)
BUILDS_LIBKRUN = ("cargo", "cc")
DIRECT = (
    "this machine has usable hardware virtualisation: libkrun runs on it directly"
    " (pytest tests/contract -k krun)"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `missing` programs, those that do not run included, are keys of PROGRAMS."""

    machine: str
    is_root: bool
    missing: tuple[str, ...]
    has_libkrun: bool
    kvm: KvmFacts
    cargo: tuple[int, int] | None = None
    """Its version; None when it is missing or does not say."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`obstacles` name what is in the way, with its mend; `needless` says why there is no need."""

    obstacles: tuple[str, ...]
    needless: str = ""

    @property
    def can_run(self) -> bool:
        """Whether `./task lab` works here."""
        return not self.obstacles


def judge(facts: Facts) -> Verdict:
    """Decide. Pure."""
    obstacles: list[str] = []
    if facts.machine != "x86_64":
        obstacles.append(f"the outer machine is x86-64, this one is {facts.machine}")
    if not facts.is_root:
        obstacles.append("the disk of the outer machine is made as root: run it as root")
    needless = BUILDS_LIBKRUN if facts.has_libkrun else ()
    obstacles += [
        f"{name} is missing: {PROGRAMS[name]}" for name in facts.missing if name not in needless
    ]
    if facts.cargo and facts.cargo < OLDEST_CARGO and not facts.has_libkrun:
        obstacles.append(f"cargo {'.'.join(map(str, facts.cargo))} is too old: {PROGRAMS['cargo']}")
    usable = not facts.kvm.error and facts.kvm.cpu_virtualises
    return Verdict(tuple(obstacles), DIRECT if usable else "")


def find_program(name: str) -> str | None:
    """A program on PATH, or where Debian keeps those for root."""
    return shutil.which(name) or shutil.which(name, path=_PATH)


def look(store: Store, find: Callable[[str], str | None] = find_program) -> Facts:
    """Look at this machine. Never raises."""
    cargo = _version(find("cargo"))
    works = {"cargo": cargo is not None}  # rustup's has no toolchain for every user
    return Facts(
        machine=os.uname().machine,
        is_root=os.geteuid() == 0,
        missing=tuple(n for n in PROGRAMS if find(n) is None or not works.get(n, True)),
        has_libkrun=store.newest(libkrun.KIND) is not None,
        kvm=read_kvm_facts(),
        cargo=cargo,
    )


def _version(cargo: str | None) -> tuple[int, int] | None:
    """What a cargo says of itself, such as `cargo 1.85.0 (d73d2caf9 2024-12-31)`."""
    if cargo is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [cargo, "--version"], check=False, capture_output=True, text=True, timeout=30
        )
        if found := re.match(r"cargo (\d+)\.(\d+)", said.stdout):
            return int(found.group(1)), int(found.group(2))
    return None


def lab_store(cache: Path) -> Store:
    """The lab's part of waggle's cache."""
    return Store(cache / "lab")
