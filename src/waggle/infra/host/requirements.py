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

# Name, purpose and uses; the names in apt, dnf, pacman and brew; the proof.
PACKAGES: tuple[SystemPackage, ...] = (
    SystemPackage(
        "QEMU", "runs the virtual machines", SERVE,
        "qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu",
        programs=("qemu-system-x86_64",),
    ),
    SystemPackage(
        "erofs-utils", "makes a read-only disk of each image", SERVE | BUILD,
        "erofs-utils", "erofs-utils", "erofs-utils", "erofs-utils",
        programs=("mkfs.erofs",),
    ),
    SystemPackage(
        "e2fsprogs", "makes the writable disk of each environment", SERVE,
        "e2fsprogs", "e2fsprogs", "e2fsprogs", "e2fsprogs",
        programs=("mke2fs",),
    ),
    SystemPackage(
        "util-linux", "starts the virtual machines without privileges (setpriv)", SERVE,
        "util-linux", "util-linux", "util-linux", None,
        programs=("setpriv",),
    ),
    SystemPackage(
        "mmdebstrap", "unpacks Debian packages for the images, the guest kit and the kernel", BUILD,
        "mmdebstrap", "mmdebstrap", None, None,
        programs=("mmdebstrap",),
    ),
    SystemPackage(
        "Debian archive keys", "verify the signatures of Debian packages", BUILD,
        "debian-archive-keyring", "debian-keyring", "debian-archive-keyring", None,
        files=(Path("/usr/share/keyrings/debian-archive-keyring.gpg"),),
    ),
    SystemPackage(
        "uidmap", "keeps file owners right when images are built without root",
        BUILD_AS_USER | TEST,
        "uidmap", "shadow-utils", "shadow", None,
        programs=("newuidmap", "newgidmap"),
    ),
    SystemPackage(
        "skopeo", "an independent reader of our images", TEST,
        "skopeo", "skopeo", "skopeo", "skopeo",
        programs=("skopeo",),
    ),
    SystemPackage(
        "umoci", "an independent unpacker of our images", TEST,
        "umoci", None, None, None,
        programs=("umoci",),
    ),
    SystemPackage(
        "busybox", "the only file of the smallest image that must boot", TEST,
        "busybox-static", "busybox", "busybox", None,
        programs=("busybox",),
    ),
    SystemPackage(
        "curl", "calls the server as the documentation shows", TEST,
        "curl", "curl", "curl", "curl",
        programs=("curl",),
    ),
    SystemPackage(
        "jq", "reads answers as the documentation shows", TEST,
        "jq", "jq", "jq", "jq",
        programs=("jq",),
    ),
    SystemPackage(
        "zip", "writes archives as other people do", TEST,
        "zip", "zip", "zip", "zip",
        programs=("zip",),
    ),
    SystemPackage(
        "xz", "lets tar write archives as other people do", TEST,
        "xz-utils", "xz", "xz", "xz",
        programs=("xz",),
    ),
    SystemPackage(
        "OpenSSH client", "logs in as 'waggle shell' does", TEST,
        "openssh-client", "openssh-clients", "openssh", "openssh",
        programs=("ssh",),
    ),
    SystemPackage(
        "C compiler", "compiles programs that the tests run", TEST,
        "gcc", "gcc", "gcc", "gcc",
        programs=("cc",),
    ),
    SystemPackage(
        "C library's headers", "are what the C compiler compiles against", TEST,
        "libc6-dev", "glibc-devel", "glibc", None,
        files=(Path("/usr/include/stdio.h"),),
    ),
    SystemPackage(
        "jansson's headers", "are what the guest agent is compiled against, for its tests", TEST,
        "libjansson-dev", "jansson-devel", "jansson", "jansson",
        files=(Path("/usr/include/jansson.h"),),
    ),
)  # fmt: skip


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
