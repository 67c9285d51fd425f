# SPDX-License-Identifier: Apache-2.0
"""The Debian tree with the tools that make and examine packages, and a way to run them in it.

Called by `packages.make` and by its tests. The tree is kept in the cache under a key of what is in
it. Programs in it have no network, see the tree read-only, and share one directory, `/mnt`, with
the caller; their mounts and processes end with them. Knows nothing of any package. Needs root.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lab.store import Store, key_of

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian
from waggle.infra.shared.debian import OnLine

KIND = "tree"
SUITE = "trixie"
PYTHON = "3.13"
"""That of the suite, for which the server's package is made."""
TOOLS = (
    *("dpkg-dev", "lintian", "rpm", "rpmlint"),
    *("musl-tools", "linux-libc-dev", "libjansson-dev", "xz-utils"),
    *("python3", "systemd", "udev", "init-system-helpers"),
    *("groff-base", "man-db"),
)
STEPS = Path(__file__).with_name("steps")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APART = (
    *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"),
    "--mount-proc",
)
_OPTIONS = ("--mode=root", '--aptopt=Apt::Install-Recommends "false"')


def tree_argv(mirror: str, target: Path) -> list[str]:
    """Return the command that makes the tree. Pure."""
    return debian.tree_argv(
        mirror,
        suite=SUITE,
        packages=TOOLS,
        variant="minbase",
        options=_OPTIONS,
        target=str(target),
        form="directory",
    )


async def ensure(store: Store, mirror: str, on_line: OnLine) -> Path:
    """Return the tree. Raises SetupIncomplete."""
    if os.geteuid() != 0:
        raise SetupIncomplete("Packages are made in a Debian tree, which needs root.")

    async def make(directory: Path) -> None:
        await debian.run(tree_argv(mirror, directory / "root"), on_line)

    return await store.ensure(KIND, key_of(SUITE, *TOOLS, *_OPTIONS), make) / "root"


def argv_in(
    tree: Path, shared: Path, program: Sequence[str], *, mode: Literal["ro", "rw"] = "ro"
) -> list[str]:
    """Return the command that runs a program in the tree; `shared` is its /mnt. Pure.

    With the mode `rw` it can change the tree, which must then be a copy.
    """
    enter = str(STEPS / "enter.sh")
    return [*_APART, "sh", enter, str(tree), mode, str(shared), str(STEPS), *program]


def variables(epoch: int) -> Mapping[str, str]:
    """Return all variables of a program in the tree; no file may be younger than `epoch`. Pure."""
    return {
        "PATH": _PATH,
        "HOME": "/tmp",  # noqa: S108 (a tmpfs of the program's own)
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "DEBIAN_FRONTEND": "noninteractive",
        "SOURCE_DATE_EPOCH": str(epoch),
    }


async def run_step(
    tree: Path, shared: Path, step: str, *words: str, epoch: int, on_line: OnLine
) -> None:
    """Run `steps/<step>` in the tree. Raises SetupIncomplete with its last lines if it fails."""
    on_line(f"$ {shlex.join([step, *words])}")
    program = ["sh", f"/srv/{step}", *words]
    await debian.run(argv_in(tree, shared, program), on_line, variables(epoch))
