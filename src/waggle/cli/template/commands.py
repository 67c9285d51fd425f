# SPDX-License-Identifier: Apache-2.0
"""The command line of `waggle template`, which `main` includes. No logic, as in `main`."""

from __future__ import annotations

from cyclopts import App

from waggle.cli.options import Json

template = App(name="template", help="The frozen machines that environments go on from.")


@template.command(name="ls")
def template_ls(*, json: Json = False) -> None:
    """List the templates: what each is of, its size, and when it was used last."""
    from waggle.cli.template.templates import ls as run

    run(as_json=json)


@template.command(name="rm")
def template_rm(*ids: str) -> None:
    """Remove templates by id; machines that came of them go on."""
    from waggle.cli.template.templates import rm as run

    run(ids)


@template.command(name="prune")
def template_prune(*, older_than: str = "7d") -> None:
    """Remove templates that were not used for so long, and what was left half made.

    Parameters
    ----------
    older_than
        Days, such as 7d; 0d removes all.
    """
    from waggle.cli.template.templates import prune as run

    run(older_than)


@template.command(name="build")
def template_build(*runtimes: str) -> None:
    """Make the templates of the configured runtimes now, and print their ids.

    It needs no server; one that runs goes on from them at once.

    Parameters
    ----------
    runtimes
        Which ones; all of them when none is named.
    """
    from waggle.cli.template.templates import build as run

    run(runtimes)
