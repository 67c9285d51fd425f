# SPDX-License-Identifier: Apache-2.0
"""The socket of a machine's port, and why no agent answers there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from waggle.domain.errors import GuestLost, WaggleError
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.guest.channel import Streams
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import PORT
from waggle.infra.guest.protocol.system import AgentInfo


class NoAgent(WaggleError):
    """No agent answers at the socket."""

    code = "no_agent"
    default_hint = (
        "Is waggle-agent running in the machine ('systemctl status waggle-agent' there), the port "
        f"named {PORT}, and no other program connected to the socket?"
    )


async def socket_at(path: Path) -> Streams:
    """Connect to the socket. Raises NoAgent."""
    try:
        return await asyncio.open_unix_connection(path)
    except FileNotFoundError:
        hint = "Is the machine running? For libvirt, 'virsh dumpxml' shows the path."
        raise NoAgent(f"There is no socket {path}.", hint=hint) from None
    except ConnectionRefusedError:
        hint = "It is left from a machine that has ended, or is no socket."
        raise NoAgent(f"Nobody listens at {path}.", hint=hint) from None
    except PermissionError:
        hint = "Run this as root, or as the user whose machine it is."
        raise NoAgent(f"You may not connect to {path}.", hint=hint) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise NoAgent(f"{path} cannot be connected to: {why}.", hint="") from None


async def greet(client: AgentClient, path: Path, seconds: float | None) -> AgentInfo:
    """Return what the agent is. Raises NoAgent, and AgentRefused for another version."""
    try:
        return await client.agent_info(seconds)
    except AgentRefused as error:
        raise explained(error) from None
    except GuestLost as error:
        cause = error.message.rpartition("get_agent_info: ")[2].rstrip(".")
        raise NoAgent(f"No agent answers at {path}: {cause}.") from None


def explained(error: GuestLost) -> GuestLost:
    """Return the error with a next step."""
    if isinstance(error, AgentRefused):
        error.hint = _why(error)
    elif "no answer within" in error.message:
        error.hint = "Give it longer with --timeout 60s; it may still be carried out."
    return error


def _why(error: AgentRefused) -> str:
    said = ", ".join(f"{name}: {value}" for name, value in error.data.items())
    if error.reason == "denied":
        where = f" ({said})" if said else ""
        return f"The machine's policy decides: /etc/waggle-agent/config.json there{where}."
    if error.reason == "busy":
        return "Try again."
    if error.reason == "unsupported" and "supported" in error.data:
        return f"The agent speaks {error.data['supported']}."
    return f"The agent says {error.reason} ({said})." if said else ""
