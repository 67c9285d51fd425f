# SPDX-License-Identifier: Apache-2.0
"""The system packages that waggle needs, as data, and the search for those that are missing.

Read by `install` (what to install and why) and by the preflight checks. A package counts as
installed when its programs and files exist, however they were installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Use = Literal["serve", "build", "build as user", "test"]
"""The use of a package: running environments, `waggle image build` and set-up, these without root,
the test suite."""

Manager = Literal["apt", "dnf", "pacman", "brew"]

_ADMIN_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """One package: the programs and files that prove it, and its name in every distribution.

    All `programs` and all `files` must exist. A `None` name: no package of that distribution is
    known; `install.DETOURS` may have another way.
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
        """Return its name in `manager`."""
        names = {"apt": self.apt, "dnf": self.dnf, "pacman": self.pacman, "brew": self.brew}
        return names[manager]


SERVE: frozenset[Use] = frozenset({"serve"})
BUILD: frozenset[Use] = frozenset({"build"})
BUILD_AS_USER: frozenset[Use] = frozenset({"build as user"})
TEST: frozenset[Use] = frozenset({"test"})

PACKAGES: tuple[SystemPackage, ...] = (
    SystemPackage(
        name="QEMU",
        why="runs the virtual machines",
        uses=SERVE,
        apt="qemu-system-x86",
        dnf="qemu-system-x86-core",
        pacman="qemu-system-x86",
        brew="qemu",
        programs=("qemu-system-x86_64",),
    ),
    SystemPackage(
        name="erofs-utils",
        why="makes a read-only disk of each image",
        uses=SERVE | BUILD,
        apt="erofs-utils",
        dnf="erofs-utils",
        pacman="erofs-utils",
        brew="erofs-utils",
        programs=("mkfs.erofs",),
    ),
    SystemPackage(
        name="e2fsprogs",
        why="makes the writable disk of each environment",
        uses=SERVE,
        apt="e2fsprogs",
        dnf="e2fsprogs",
        pacman="e2fsprogs",
        brew="e2fsprogs",
        programs=("mke2fs",),
    ),
    SystemPackage(
        name="util-linux",
        why="starts the virtual machines without privileges (setpriv)",
        uses=SERVE,
        apt="util-linux",
        dnf="util-linux",
        pacman="util-linux",
        brew=None,
        programs=("setpriv",),
    ),
    SystemPackage(
        name="mmdebstrap",
        why="unpacks Debian packages for the images, the guest kit and the kernel",
        uses=BUILD,
        apt="mmdebstrap",
        dnf="mmdebstrap",
        pacman=None,
        brew=None,
        programs=("mmdebstrap",),
    ),
    SystemPackage(
        name="Debian archive keys",
        why="verify the signatures of Debian packages",
        uses=BUILD,
        apt="debian-archive-keyring",
        dnf="debian-keyring",
        pacman="debian-archive-keyring",
        brew=None,
        files=(Path("/usr/share/keyrings/debian-archive-keyring.gpg"),),
    ),
    SystemPackage(
        name="uidmap",
        why="keeps file owners right when images are built without root",
        uses=BUILD_AS_USER | TEST,
        apt="uidmap",
        dnf="shadow-utils",
        pacman="shadow",
        brew=None,
        programs=("newuidmap", "newgidmap"),
    ),
    SystemPackage(
        name="skopeo",
        why="an independent reader of our images",
        uses=TEST,
        apt="skopeo",
        dnf="skopeo",
        pacman="skopeo",
        brew="skopeo",
        programs=("skopeo",),
    ),
    SystemPackage(
        name="umoci",
        why="an independent unpacker of our images",
        uses=TEST,
        apt="umoci",
        dnf=None,
        pacman=None,
        brew=None,
        programs=("umoci",),
    ),
    SystemPackage(
        name="busybox",
        why="the only file of the smallest image that must boot",
        uses=TEST,
        apt="busybox-static",
        dnf="busybox",
        pacman="busybox",
        brew=None,
        programs=("busybox",),
    ),
    SystemPackage(
        name="curl",
        why="calls the server as the documentation shows",
        uses=TEST,
        apt="curl",
        dnf="curl",
        pacman="curl",
        brew="curl",
        programs=("curl",),
    ),
    SystemPackage(
        name="jq",
        why="reads answers as the documentation shows",
        uses=TEST,
        apt="jq",
        dnf="jq",
        pacman="jq",
        brew="jq",
        programs=("jq",),
    ),
    SystemPackage(
        name="zip",
        why="writes archives as other people do",
        uses=TEST,
        apt="zip",
        dnf="zip",
        pacman="zip",
        brew="zip",
        programs=("zip",),
    ),
    SystemPackage(
        name="xz",
        why="lets tar write archives as other people do",
        uses=TEST,
        apt="xz-utils",
        dnf="xz",
        pacman="xz",
        brew="xz",
        programs=("xz",),
    ),
    SystemPackage(
        name="OpenSSH client",
        why="logs in as 'waggle shell' does",
        uses=TEST,
        apt="openssh-client",
        dnf="openssh-clients",
        pacman="openssh",
        brew="openssh",
        programs=("ssh",),
    ),
    SystemPackage(
        name="C compiler",
        why="compiles programs that the tests run",
        uses=TEST,
        apt="gcc",
        dnf="gcc",
        pacman="gcc",
        brew="gcc",
        programs=("cc",),
    ),
    SystemPackage(
        name="C library's headers",
        why="are what the C compiler compiles against",
        uses=TEST,
        apt="libc6-dev",
        dnf="glibc-devel",
        pacman="glibc",
        brew=None,
        files=(Path("/usr/include/stdio.h"),),
    ),
)


def find_program(name: str) -> Path | None:
    """Find a program on PATH or in the administrator's directories, which users' PATHs omit."""
    found = shutil.which(name) or shutil.which(name, path=_ADMIN_DIRECTORIES)
    return Path(found) if found else None


def building(*, is_root: bool) -> frozenset[Use]:
    """Return the uses for building images as root, or as an ordinary user."""
    return BUILD if is_root else BUILD | BUILD_AS_USER


def missing(
    uses: Iterable[Use],
    *,
    packages: Sequence[SystemPackage] = PACKAGES,
    has_program: Callable[[str], bool] = lambda name: find_program(name) is not None,
    has_file: Callable[[Path], bool] = Path.exists,
) -> tuple[SystemPackage, ...]:
    """Return the packages for these uses that are missing, in the order of `packages`."""
    wanted = frozenset(uses)
    return tuple(
        package
        for package in packages
        if package.uses & wanted
        and not (all(map(has_program, package.programs)) and all(map(has_file, package.files)))
    )
