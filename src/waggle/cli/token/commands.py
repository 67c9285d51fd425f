# SPDX-License-Identifier: Apache-2.0
"""The command line of `waggle token`, which `main` includes. No logic, as in `main`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from waggle.cli.options import Json

token = App(name="token", help="The bearer tokens in WAGGLE_AUTH_TOKENS_FILE.")
_Owner = Annotated[
    str, Parameter(help="Whose environments the token opens; a name of your choice.")
]
_Expires = Annotated[
    str | None, Parameter(help="When the token ends, in days from now, such as 90d.")
]


@token.command(name="new")
def token_new(owner: _Owner, *, expires: _Expires = None) -> None:
    """Make a token and print it once; the file keeps only its hash.

    The owner `metrics` is special: its tokens open /metrics and nothing else.
    """
    from waggle.cli.token.tokens import new as run

    run(owner, expires)


@token.command(name="ls")
def token_ls(*, json: Json = False) -> None:
    """List the tokens: ids, owners and when they end."""
    from waggle.cli.token.tokens import ls as run

    run(as_json=json)


@token.command(name="rm")
def token_rm(*ids: str) -> None:
    """Remove tokens by id; a running server refuses them within about a second."""
    from waggle.cli.token.tokens import rm as run

    run(ids)
