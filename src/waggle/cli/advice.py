# SPDX-License-Identifier: Apache-2.0
"""A server's words as a person at the command line needs them. Pure; used by `waggle.cli.client`.

Its advice is for models and names tools; a person has commands. Advice for which there is no
equivalent command is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from waggle.domain.network import PUBLIC_NETWORK, recorded_network
from waggle.domain.network.decisions import in_another
from waggle.domain.toolset import naming, without

_NEW, _LS, _CP, _EXEC = "'waggle env new'", "'waggle env ls'", "'waggle cp'", "'waggle exec'"
COMMANDS: Mapping[str, str | None] = {
    "create_environment": _NEW,
    "list_environments": _LS,
    "destroy_environment": "'waggle env rm'",
    "get_environment": _LS,
    "extend_environment": None,
    "set_network": None,  # such advice names the command, too, and with the rule in it
    "execute": _EXEC,
    "run_command": _EXEC,
    "wait_job": None,
    "read_job": None,
    "write_job": None,
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
    "restart_environment": "'waggle env restart'",
    "pause_environment": "'waggle env pause'",
    "resume_environment": "'waggle env resume'",
    "snapshot_environment": "'waggle env snapshot'",
    "list_snapshots": "'waggle snapshot ls'",
    "delete_snapshot": "'waggle snapshot rm'",
    "fork_environment": "'waggle env fork'",
    "keep_fork": None,
    "rollback_environment": "'waggle env rollback'",
    "run_code": "'waggle run'",
}
"""The command that replaces a tool; None where there is no such command."""
_PARAMETERS = {
    "timeout_seconds": "--timeout-seconds",
    "timeout_minutes": "--timeout-minutes",
}
_PHRASES = {
    "Give network, or rules to allow or deny": "Give a network, --allow or --deny",
    "Rules that deny belong into deny, others into allow": "Rules that deny belong into --deny, "
    "others into --allow",
    "Leave out network, or secrets": "Leave out --network, or --secret",
    "Leave out secrets": "Leave out --secret",
    "Leave it out of env": "Leave out its --env",
    "network 'public'": "--network public",
    "user 'root'": "--user root",
    "create_environment(snapshot=...)": "'waggle env new --snapshot'",
    "create_environment(network=...)": "'waggle env new --network'",
}
_NO_COMMAND = naming([name for name, command in COMMANDS.items() if command is None])
_WORDS = {name: command for name, command in COMMANDS.items() if command} | _PARAMETERS
_IN_ADVICE = naming(list(_WORDS))
_SURELY = [re.escape(name) for name in (*COMMANDS, *_PARAMETERS) if "_" in name]
_IN_MESSAGE = re.compile(rf"(?<![\w/.'\"-])(?:{'|'.join(_SURELY)})(?![\w/'\"-]|\.\w)")
"""A message may contain text of a guest or a client, so quotes and paths stay unchanged."""


def advice(text: str) -> str:
    """Return a server's advice with commands in place of tools, without parts for no command."""
    text = without(_NO_COMMAND, text)
    for phrase, command in _PHRASES.items():
        text = text.replace(phrase, command)
    return _IN_ADVICE.sub(lambda found: _WORDS[found[0]], text)


def message(text: str) -> str:
    """Return a server's message with commands in place of tools."""
    return _IN_MESSAGE.sub(lambda found: _WORDS.get(found[0], "this command"), text)


_ANOTHER = re.compile(
    r"[Cc]reate (?:one with --network public(?: and install ([^;.]+?) there)?"
    r"|another environment with a network)"
)


def of_run(text: str, network: str) -> str:
    """Return advice, or a message with advice, for `waggle run`, whose environment is gone.

    `network` is what that could reach, in one text.
    """
    try:
        had = recorded_network(network)
    except ValueError:  # of another version of the server
        had = PUBLIC_NETWORK
    return _ANOTHER.sub(_again, in_another(text, had, _with_network))


def _with_network(items: Sequence[str]) -> str:
    return f"Run it again with --network {shlex.quote(', '.join(items))}."


def _again(found: re.Match[str]) -> str:
    words = "run it again with another --network"
    if "public" in found[0]:
        words = "run it again with --network public"
        words += f" and --packages {shlex.quote(found[1])}" if found[1] else ""
    return words[0].upper() + words[1:] if found[0][0] == "C" else words
