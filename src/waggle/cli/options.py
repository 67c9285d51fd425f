# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for scripts.")]
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
Write = Annotated[
    bool,
    Parameter(name="--write", negative="", help="Merge it into the client's file."),
]
