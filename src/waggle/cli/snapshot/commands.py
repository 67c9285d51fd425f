# SPDX-License-Identifier: Apache-2.0
"""The command line of `waggle snapshot`, which `main` includes. No logic, as in `main`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from waggle.cli.options import Json

snapshot = App(name="snapshot", help="The snapshots in the server's data directory.")


@snapshot.command(name="ls")
def snapshot_ls(*, json: Json = False) -> None:
    """List everybody's snapshots: owner, size, and until when each is kept."""
    from waggle.cli.snapshot.snapshots import ls as run

    run(as_json=json)


@snapshot.command(name="rm")
def snapshot_rm(*ids: str) -> None:
    """Remove snapshots by id; environments that came of them go on."""
    from waggle.cli.snapshot.snapshots import rm as run

    run(ids)


@snapshot.command(name="export")
def snapshot_export(snapshot: str, file: Path) -> None:
    """Write a snapshot to one file, which holds all that was in its memory, secrets included.

    Parameters
    ----------
    snapshot
        Its id, as 'waggle snapshot ls' shows it.
    file
        The file to make; it must not exist.
    """
    from waggle.cli.snapshot.snapshots import export as run

    run(snapshot, file)


@snapshot.command(name="import")
def snapshot_import(file: Path, *, owner: str | None = None, json: Json = False) -> None:
    """Bring a snapshot from a file that 'waggle snapshot export' wrote, and print its new id.

    Import only what you made or trust: QEMU reads its devices' state from it.

    Parameters
    ----------
    file
        What was exported.
    owner
        Whose it becomes; without one, that of those who need not say who they are.
    """
    from waggle.cli.snapshot.snapshots import bring as run

    run(file, owner, as_json=json)
