# SPDX-License-Identifier: Apache-2.0
"""A server's refusals, in words for a person at a terminal. Pure.

Used by `client` and the commands. A server's advice is for models and names tools; a person has
commands. Advice for which there is no equivalent command is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from mcp import MCPError
from mcp_types import CallToolResult, TextContent

from waggle.domain.errors import WaggleError
from waggle.domain.toolset import naming, without

_ERROR = "waggle/error"
"""The key of waggle's errors in `_meta`, as `waggle.mcp.errors` writes them."""
_NEW, _LS, _CP, _EXEC = "'waggle env new'", "'waggle env ls'", "'waggle cp'", "'waggle exec'"
COMMANDS: Mapping[str, str | None] = {
    "create_environment": _NEW,
    "list_environments": _LS,
    "destroy_environment": "'waggle env rm'",
    "get_environment": _LS,
    "extend_environment": None,
    "execute": _EXEC,
    "run_command": _EXEC,
    "wait_job": None,
    "read_job": None,
    "kill_job": None,
    "list_jobs": None,
    "write_file": _CP,
    "read_file": _CP,
    "list_files": "'waggle exec ENVIRONMENT -- ls'",
    "search_files": "'waggle exec ENVIRONMENT -- grep'",
    "edit_file": _CP,
    "upload_files": _CP,
    "download_files": _CP,
    "install_packages": "'waggle run --packages'",
    "expose_port": "'waggle port'",
    "unexpose_port": None,
    "pause_environment": "'waggle env pause'",
    "resume_environment": "'waggle env resume'",
    "snapshot_environment": "'waggle env snapshot'",
    "list_snapshots": "'waggle snapshot ls'",
    "delete_snapshot": "'waggle snapshot rm'",
    "fork_environment": "'waggle env fork'",
    "rollback_environment": "'waggle env rollback'",
    "run_code": "'waggle run'",
}
"""The command that replaces a tool; None where there is no such command."""
_PARAMETERS = {
    "timeout_seconds": "--timeout-seconds",
    "timeout_minutes": "--timeout-minutes",
}
_PHRASES = {
    "network 'public'": "--network public",
    "user 'root'": "--user root",
    "create_environment(snapshot=...)": "'waggle env new --snapshot'",
}
_NO_COMMAND = naming([name for name, command in COMMANDS.items() if command is None])
_WORDS = {name: command for name, command in COMMANDS.items() if command} | _PARAMETERS
_IN_ADVICE = naming(list(_WORDS))
_SURELY = [re.escape(name) for name in (*COMMANDS, *_PARAMETERS) if "_" in name]
_IN_MESSAGE = re.compile(rf"(?<![\w/.'\"-])(?:{'|'.join(_SURELY)})(?![\w/'\"-]|\.\w)")
"""A message may contain text of a guest or a client, so quotes and paths stay unchanged."""


class CallRefused(WaggleError):
    """A tool answered with an error. `reason` is its code, `result` the data of the answer."""

    code = "call_refused"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str = "",
        wait: float | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.wait = wait
        """Seconds after which the same call will succeed, if known."""
        self.result: Mapping[str, Any] = result or {}


def advice(text: str) -> str:
    """Return a server's advice with commands in place of tools, without parts for no command."""
    kept = without(_NO_COMMAND, text)
    for phrase, command in _PHRASES.items():
        kept = kept.replace(phrase, command)
    return _IN_ADVICE.sub(lambda found: _WORDS[found[0]], kept)


def message(text: str) -> str:
    """Return a server's message with commands in place of tools."""
    return _IN_MESSAGE.sub(lambda found: _WORDS.get(found[0], "this command"), text)


def refused(tool: str, result: CallToolResult) -> CallRefused:
    """Return the error in a tool's error result."""
    told = (result.meta or {}).get(_ERROR)
    if not isinstance(told, dict):
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        return CallRefused("\n".join(texts) or "The server refused.")
    return _of(tool, cast("dict[str, Any]", told), result.structured_content)


def refused_request(error: MCPError) -> CallRefused | None:
    """Return waggle's error in an error of the protocol, or None if it holds none."""
    data: object = error.error.data
    told: object = cast("dict[str, Any]", data).get(_ERROR) if isinstance(data, dict) else None
    return _of("", cast("dict[str, Any]", told), None) if isinstance(told, dict) else None


def _of(tool: str, told: Mapping[str, Any], result: Mapping[str, Any] | None) -> CallRefused:
    code, hint = str(told["code"]), str(told["hint"])
    if code == "unknown_tool":
        return CallRefused(
            "The server does not offer what this command needs.",
            hint="Its operator narrows what it allows, with WAGGLE_TOOLSETS_ALLOWED or "
            "WAGGLE_TOOLSETS.",
            reason=code,
        )
    if tool and hint.startswith(f"{tool} takes"):
        hint = ""  # a list of its parameters
    return CallRefused(
        message(str(told["message"])),
        hint=advice(hint),
        reason=code,
        wait=told.get("retry_after_seconds"),
        result=result,
    )
