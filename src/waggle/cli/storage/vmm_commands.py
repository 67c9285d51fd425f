# SPDX-License-Identifier: Apache-2.0
"""The command lines of `waggle vmm`, which need no server. No logic.

`main` includes them. Every command imports its own code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from waggle.cli.options import Flag, Json

vmm = App(name="vmm", help="The programs of Firecracker and Cloud Hypervisor that machines run in.")
_Name = Annotated[Literal["firecracker", "cloud-hypervisor"], Parameter(help="Which VMM.")]


@vmm.command(name="ls")
def vmm_ls(*, json: Json = False) -> None:
    """List the programs: their versions, and whether they can be used."""
    from waggle.cli.storage.vmm import ls as run

    run(as_json=json)


@vmm.command(name="add")
def vmm_add(path: Path, *, jailer: Path | None = None, json: Json = False) -> None:
    """Add a program of yours: it is copied, run once without rights, and asked for its version.

    Servers use the newest version for their next machine; one that runs without that VMM, once it
    starts again. Older versions stay for what they froze.

    Example: `waggle vmm add firecracker-v1.12.1-x86_64.tgz`

    :param path: The program, the directory that holds it, or the archive of a Firecracker release.
    :param jailer: The jailer of the same release; by default the one beside the program.
    """
    from waggle.cli.storage.vmm import add as run

    run(path, jailer, as_json=json)


@vmm.command(name="rm")
def vmm_rm(vmm: _Name, version: str, *, force: Flag = False) -> None:
    """Remove a version. One that a snapshot, a template or an environment needs is refused.

    :param version: Its version, as 'waggle vmm ls' shows it.
    :param force: Remove it all the same; what needs it can then not be resumed.
    """
    from waggle.cli.storage.vmm import rm as run

    run(vmm, version, force=force)


@vmm.command(name="check")
def vmm_check(*, json: Json = False) -> int:
    """Run every program again and compare its files and version with what was added.

    Exit 1 when one cannot be used.
    """
    from waggle.cli.storage.vmm import check as run

    return run(as_json=json)
