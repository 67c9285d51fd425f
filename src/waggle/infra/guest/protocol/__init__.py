# SPDX-License-Identifier: Apache-2.0
"""The guest agent's protocol, version 1.0: methods, parameters, results and errors as types.

docs/guest-agent.md explains it, and docs/guest-agent.schema.json is made from these models. The
client (`infra.guest.client`) and `waggle agent` use them; the agent in C (rootfs/kit/agent)
implements them and is tested against them. Knows no transport.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NamedTuple

from waggle.infra.guest.protocol import files, power, programs, system
from waggle.infra.guest.protocol.fields import Message, Result

VERSION: Final = "1.0"
PORT: Final = "org.waggle.agent.0"
MAX_REQUEST: Final = 256 * 1024
"""Bytes of a line to the agent, with its end."""
MAX_ANSWER: Final = 768 * 1024
"""Bytes of a line from the agent, with its end."""
MAX_DEPTH: Final = 16
"""Arrays and objects inside each other."""


class Again(Enum):
    """What a second request does: nothing, as the first; nothing more (idempotent); or it all."""

    ASKS = "asks"
    SAME = "same"
    ANEW = "anew"


class Method(NamedTuple):
    """The types of a method. `seconds` is how long an answer may take when nothing is wrong."""

    params: type[Message]
    result: type[Result]
    seconds: float
    again: Again = Again.ASKS


_SAME, _ANEW = Again.SAME, Again.ANEW
_SOON = 5.0
_DISK = 30.0
METHODS: Final[dict[str, Method]] = {
    "ping": Method(system.Nothing, system.Done, _SOON),
    "get_agent_info": Method(system.GetAgentInfo, system.AgentInfo, _SOON),
    "get_system_info": Method(system.Nothing, system.SystemInfo, _SOON),
    "get_network_info": Method(system.Nothing, system.NetworkInfo, _SOON),
    "get_disk_usage": Method(system.Nothing, system.DiskUsage, _DISK),
    "get_metrics": Method(system.Nothing, system.Metrics, _SOON),
    "get_users": Method(system.Nothing, system.Users, _SOON),
    "exec_command": Method(programs.ExecCommand, programs.ProcessInfo, _DISK, _ANEW),
    "get_process": Method(programs.GetProcess, programs.ProcessInfo, _SOON, _ANEW),
    "kill_process": Method(programs.KillProcess, programs.ProcessInfo, _DISK, _SAME),
    "file_read": Method(files.FileRead, files.FileData, _DISK),
    "file_write": Method(files.FileWrite, files.Written, _DISK, _SAME),
    "list_directory": Method(files.ListDirectory, files.Listing, _DISK),
    "set_time": Method(power.SetTime, power.ClockSet, _SOON, _SAME),
    "shutdown": Method(power.End, system.Done, _DISK, _SAME),
    "reboot": Method(power.End, system.Done, _DISK, _SAME),
    "sync_filesystems": Method(system.Nothing, system.Done, _DISK, _SAME),
    "freeze_filesystems": Method(power.Freeze, power.Frozen, _DISK, _SAME),
    "thaw_filesystems": Method(system.Nothing, power.Frozen, _DISK, _SAME),
}


class ErrorCode(IntEnum):
    """The codes of errors: those of JSON-RPC 2.0, section 5.1, and the agent's own."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    DENIED = -32000
    NOT_FOUND = -32001
    TOO_LARGE = -32002
    TIMED_OUT = -32003
    BUSY = -32004
    UNSUPPORTED = -32005
    FAILED = -32006
