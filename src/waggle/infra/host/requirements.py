# SPDX-License-Identifier: Apache-2.0
"""The system packages that waggle needs, as data, and which of them are missing.

Read by `install` (what to install and why) and by the preflight checks. A package counts as there
when its program or file is there, however it was installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Use = Literal["serve", "build", "test"]
"""What needs a package: running environments, `waggle image build` and set-up, the test-suite."""

Manager = Literal["apt", "dnf", "pacman", "brew"]

_ADMIN_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """One package: what proves that it is there, and its name in each distribution.

    `programs` must all be found, then all `files`. A `None` name: the distribution has no such
    package under a name known to us; `detours` may know another way.
    """

    name: str
    why: str
    uses: frozenset[Use]
    apt: str
    dnf: str | None
    pacman: str | None
    brew: str | None
    programs: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def name_for(self, manager: Manager) -> str | None:
        """Return what `manager` calls it."""
        names = {"apt": self.apt, "dnf": self.dnf, "pacman": self.pacman, "brew": self.brew}
        return names[manager]


_SERVE: frozenset[Use] = frozenset({"serve"})
_BUILD: frozenset[Use] = frozenset({"build"})
_TEST: frozenset[Use] = frozenset({"test"})

PACKAGES: tuple[SystemPackage, ...] = (
    SystemPackage(
        name="QEMU",
        why="runs the virtual machines",
        uses=_SERVE,
        apt="qemu-system-x86",
        dnf="qemu-system-x86-core",
        pacman="qemu-system-x86",
        brew="qemu",
        programs=("qemu-system-x86_64",),
    ),
    SystemPackage(
        name="erofs-utils",
        why="makes a read-only disk of each image",
        uses=_SERVE | _BUILD,
        apt="erofs-utils",
        dnf="erofs-utils",
        pacman="erofs-utils",
        brew="erofs-utils",
        programs=("mkfs.erofs",),
    ),
    SystemPackage(
        name="e2fsprogs",
        why="makes the writable disk of each environment",
        uses=_SERVE,
        apt="e2fsprogs",
        dnf="e2fsprogs",
        pacman="e2fsprogs",
        brew="e2fsprogs",
        programs=("mke2fs",),
    ),
    SystemPackage(
        name="util-linux",
        why="starts the virtual machines without privileges (setpriv)",
        uses=_SERVE,
        apt="util-linux",
        dnf="util-linux",
        pacman="util-linux",
        brew=None,
        programs=("setpriv",),
    ),
    SystemPackage(
        name="mmdebstrap",
        why="unpacks Debian packages for the images, the guest kit and the kernel",
        uses=_BUILD,
        apt="mmdebstrap",
        dnf="mmdebstrap",
        pacman=None,
        brew=None,
        programs=("mmdebstrap",),
    ),
    SystemPackage(
        name="Debian archive keys",
        why="verify the signatures of Debian packages",
        uses=_BUILD,
        apt="debian-archive-keyring",
        dnf="debian-keyring",
        pacman="debian-archive-keyring",
        brew=None,
        files=(Path("/usr/share/keyrings/debian-archive-keyring.gpg"),),
    ),
    SystemPackage(
        name="uidmap",
        why="keeps file owners right when images are built without root",
        uses=_BUILD,
        apt="uidmap",
        dnf="shadow-utils",
        pacman="shadow",
        brew=None,
        programs=("newuidmap", "newgidmap"),
    ),
    SystemPackage(
        name="skopeo",
        why="an independent reader of our images",
        uses=_TEST,
        apt="skopeo",
        dnf="skopeo",
        pacman="skopeo",
        brew="skopeo",
        programs=("skopeo",),
    ),
    SystemPackage(
        name="umoci",
        why="an independent unpacker of our images",
        uses=_TEST,
        apt="umoci",
        dnf=None,
        pacman=None,
        brew=None,
        programs=("umoci",),
    ),
    SystemPackage(
        name="busybox",
        why="the only file of the smallest image that must boot",
        uses=_TEST,
        apt="busybox-static",
        dnf="busybox",
        pacman="busybox",
        brew=None,
        programs=("busybox",),
    ),
)


def find_program(name: str) -> Path | None:
    """Find a program on PATH or in the administrator's directories, which users' PATHs omit."""
    found = shutil.which(name) or shutil.which(name, path=_ADMIN_DIRECTORIES)
    return Path(found) if found else None


def missing(
    uses: Iterable[Use],
    *,
    is_root: bool,
    packages: Sequence[SystemPackage] = PACKAGES,
    has_program: Callable[[str], bool] = lambda name: find_program(name) is not None,
    has_file: Callable[[Path], bool] = Path.exists,
) -> tuple[SystemPackage, ...]:
    """Return the packages for these uses that are not there, in their stated order."""
    wanted = frozenset(uses)
    return tuple(
        package
        for package in packages
        if package.uses & wanted
        and not (is_root and package.name == "uidmap")
        and not (all(map(has_program, package.programs)) and all(map(has_file, package.files)))
    )
