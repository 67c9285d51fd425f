# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run the lab, and whether it needs to. `judge` is pure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.store import Store
from waggle.infra.host.hypervisors import KvmFacts, read_kvm_facts

_PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
PROGRAMS = {
    "qemu-system-x86_64": "waggle setup --yes",
    "mmdebstrap": "waggle setup --yes",
    "mke2fs": "waggle setup --yes",
    "setpriv": "apt-get install util-linux",
    "git": "apt-get install git",
}
DIRECT = (
    "this machine has usable hardware virtualisation: libkrun runs on it directly"
    " (pytest tests/contract -k krun)"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about this machine. `missing` programs are keys of PROGRAMS."""

    machine: str
    is_root: bool
    missing: tuple[str, ...]
    kvm: KvmFacts


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the lab can run, and why not.

    `obstacles` are properties of this machine or user; `mends` name missing programs and the
    command that installs each. `needless` says why the lab is not needed.
    """

    obstacles: tuple[str, ...] = ()
    mends: tuple[str, ...] = ()
    needless: str = ""

    @property
    def can_run(self) -> bool:
        """Whether `./task lab` works here."""
        return not self.obstacles and not self.mends


def judge(facts: Facts) -> Verdict:
    """Decide from the facts. Pure."""
    obstacles: list[str] = []
    if facts.machine != "x86_64":
        obstacles.append(f"the outer machine is x86-64, this one is {facts.machine}")
    if not facts.is_root:
        obstacles.append("the disk of the outer machine is made as root: run it as root")
    mends = tuple(f"{name} is missing: {PROGRAMS[name]}" for name in facts.missing)
    usable = not facts.kvm.error and facts.kvm.cpu_virtualises
    return Verdict(tuple(obstacles), mends, DIRECT if usable else "")


def find_program(name: str) -> str | None:
    """Find a program on PATH, or in Debian's directories for root's programs."""
    return shutil.which(name) or shutil.which(name, path=_PATH)


def look(find: Callable[[str], str | None] = find_program) -> Facts:
    """Collect the facts about this machine. Never raises."""
    return Facts(
        machine=os.uname().machine,
        is_root=os.geteuid() == 0,
        missing=tuple(name for name in PROGRAMS if find(name) is None),
        kvm=read_kvm_facts(),
    )


def lab_store(cache: Path) -> Store:
    """Return the lab's part of waggle's cache."""
    return Store(cache / "lab")
