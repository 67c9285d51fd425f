# SPDX-License-Identifier: Apache-2.0
"""How to get what a distribution does not package: which packages that takes, and shell lines.

Read by `install`, which prints the lines for a person to run as root; waggle does not run them.
"""

from __future__ import annotations

from dataclasses import dataclass

from waggle.infra.host.requirements import Manager


@dataclass(frozen=True, slots=True)
class Detour:
    """The distribution's packages that are needed first, then what to type, in this order."""

    packages: tuple[str, ...]
    lines: tuple[str, ...]


# mmdebstrap is one program, in a package that debootstrap fetches from its own default archive
# and whose signature it checks.
_MMDEBSTRAP = (
    "debootstrap --download-only --variant=minbase --include=mmdebstrap"
    " trixie /usr/local/src/mmdebstrap",
    "dpkg-deb --fsys-tarfile"
    " /usr/local/src/mmdebstrap/var/cache/apt/archives/mmdebstrap_*_all.deb"
    " | tar -x -C /usr/local --strip-components=2 ./usr/bin/mmdebstrap",
    "rm -r /usr/local/src/mmdebstrap",
)
_UMOCI_MODULE = "github.com/opencontainers/umoci@v0.6.0"
_UMOCI = (
    f"go mod download {_UMOCI_MODULE} && cd $(go list -m -f {{{{.Dir}}}} {_UMOCI_MODULE})"
    " && go build -o /usr/local/bin/umoci ./cmd/umoci",
)

DETOURS: dict[tuple[str, Manager], Detour] = {
    ("mmdebstrap", "pacman"): Detour(
        ("apt", "debian-archive-keyring", "debootstrap", "perl"), _MMDEBSTRAP
    ),
    ("umoci", "dnf"): Detour(("golang",), _UMOCI),
    ("umoci", "pacman"): Detour(("go",), _UMOCI),
}
"""By the name of our `SystemPackage`, and the package manager that has no package for it."""
