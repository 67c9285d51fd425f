# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, Token

SERVER, MACHINE = Group("Server", sort_key=1), Group("This machine", sort_key=2)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for scripts.")]


def _as_typed(_kind: object, tokens: Sequence[Token]) -> object:
    return tokens[0].value


Place = Annotated[Path, Parameter(converter=_as_typed)]
"""A path for shells to complete, here or in an environment; as typed, for a last slash counts."""
Repeated = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
"""An option that may be given several times."""
Recursive = Annotated[
    bool,
    Parameter(name=("--recursive", "-r"), negative="", help="Copy directories, with all in them."),
]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="", help="Do not ask.")]
Stdio = Annotated[
    bool,
    Parameter(
        name="--stdio",
        negative="",
        help="Serve the one client that started this over standard input and output.",
    ),
]
Listen = Annotated[
    str | None,
    Parameter(
        name="--listen",
        help="Where to listen, as HOST:PORT, instead of WAGGLE_LISTEN_ADDR.",
    ),
]
Fix = Annotated[
    bool,
    Parameter(name="--fix", negative="", help="Say which commands mend what can be mended."),
]
Write = Annotated[
    bool,
    Parameter(name="--write", negative="", help="Merge it into the client's file."),
]
