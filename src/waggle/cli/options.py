# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and cyclopts' error formatters for unknown options.

Used by `main` and the modules of commands. A formatter adds a hint to an unknown option; other
errors keep cyclopts' text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import CycloptsError, CycloptsPanel, Group, Parameter, Token, UnknownOptionError

from waggle.domain.network import parse_network
from waggle.shipped import document

SERVER, MACHINE = Group("Server", sort_key=1), Group("This machine", sort_key=2)

Flag = Annotated[bool, Parameter(negative="")]
"""An option without a value, and without a --no- form."""
Json = Annotated[Flag, Parameter(help="Print JSON, for scripts.")]


def _as_typed(_kind: object, tokens: Sequence[Token]) -> object:
    return tokens[0].value


Place = Annotated[Path, Parameter(converter=_as_typed)]
"""A path that shells complete, here or in an environment; as typed, since a final slash counts."""
_METHODS = Literal[
    "ping", "get_agent_info", "get_system_info", "get_network_info", "get_disk_usage",
    "get_metrics", "get_users", "exec_command", "get_process", "kill_process", "file_read",
    "file_write", "list_directory", "set_time", "shutdown", "reboot", "sync_filesystems",
    "freeze_filesystems", "thaw_filesystems",
]  # fmt: skip
AgentMethod = Annotated[_METHODS | str | None, Parameter(converter=_as_typed, show_choices=False)]
"""A method of the guest agent's protocol, which shells complete; a wrong one has its own error."""
Environment = Annotated[str, Parameter(help="Its id, the beginning of its id, or its name.")]


def _is_network(_kind: object, value: str | None) -> None:
    if value is not None:
        parse_network(value)


NetworkOption = Annotated[str | None, Parameter(validator=_is_network)]
"""What an environment may reach, in the words of docs/network.md."""
Repeated = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
"""An option that may be given several times."""

_ADDRESS = {"port", "host", "bind", "address", "addr", "listen_addr", "listen_address", "p", "b"}


def of_serve(error: CycloptsError) -> object:
    """Format an error of `serve`. Its unknown options usually name settings."""
    if not isinstance(error, UnknownOptionError):
        return CycloptsPanel(error)
    return CycloptsPanel(f"{error} {_setting(_option(error))}")


def of_program(error: CycloptsError) -> object:
    """Format an error of `exec` or `run`. Their unknown options are mostly the program's."""
    if not isinstance(error, UnknownOptionError):
        return CycloptsPanel(error)
    return CycloptsPanel(
        f"{error} Write -- before the program's own words, as in: "
        "waggle exec ENVIRONMENT -- ls -l, or waggle run FILE -- --verbose"
    )


def _option(error: UnknownOptionError) -> str:
    word = error.token.keyword or error.token.value
    return word.partition("=")[0].lstrip("-").replace("-", "_").lower().removeprefix("waggle_")


def _setting(option: str) -> str:
    from waggle.config import fields, nearest, variable

    if option in _ADDRESS:
        return "Use --listen HOST:PORT, such as --listen 127.0.0.1:9000."
    if option in fields():
        name = variable(option)
        return f"Set the variable {name} instead: {name}=VALUE waggle serve."
    if near := nearest(option):
        return f"Did you mean the variable {near}? It is set so: {near}=VALUE waggle serve."
    return f"Settings are WAGGLE_* variables: see {document('configuration.md')}."
