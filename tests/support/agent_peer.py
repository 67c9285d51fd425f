# SPDX-License-Identifier: Apache-2.0
"""The other end of a guest agent's channel: it answers as it is told, well or badly.

`GOOD` has a result of every method. `Peer` reads requests and sends what `reply` returns for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

from waggle.infra.guest.channel import over
from waggle.infra.guest.client import AgentClient, Audit
from waggle.infra.guest.protocol import MAX_REQUEST, METHODS

Request = dict[str, Any]
Reply = Callable[[Request], bytes]
ZERO: Final = "AA=="
_PROCESS: Final = {
    "process": 3, "status": "exited", "exit_code": 7, "signal": None, "seconds": 0.25,
    "stdout_bytes": 3, "stderr_bytes": 1, "stdout": "b2sK", "stderr": "IQ==",
}  # fmt: skip
_LIMITS: Final = {
    "read_bytes": 262_144, "write_bytes": 180_224, "output_bytes": 65_536, "timeout_seconds": 60,
    "requests": 8, "processes": 8,
}  # fmt: skip
_ENTRY: Final = {"name": "a", "kind": "file", "size": 5, "mode": 0o644, "modified": 10**18}
GOOD: Final[dict[str, dict[str, Any]]] = {
    "ping": {},
    "get_agent_info": {
        "agent": "waggle-agent", "version": "1.0.0", "protocol": "1.0", "supported": ["1.0"],
        "methods": [*METHODS], "capabilities": ["openat2"],
        "policy": {
            "read": {"allow": ["/tmp"], "deny": []}, "write": {"allow": ["/tmp"], "deny": []},
            "exec": [{"path": "/usr/bin/df", "arguments": ["**"]}], "users": ["nobody"],
            "limits": _LIMITS,
        },
        "pending": [7, "a"],
    },
    "get_system_info": {
        "os": {"id": "debian", "name": "Debian", "version": "13", "pretty_name": "Debian 13"},
        "kernel": "6.12", "architecture": "x86_64", "hostname": "box", "cpus": 2,
        "memory_bytes": 1 << 29, "uptime": 5, "boot_id": "b-1", "time": 1_700_000_000 * 10**9,
    },
    "get_network_info": {
        "interfaces": [{"name": "lo", "mac": "00:00", "mtu": 65_536, "is_up": True,
                        "addresses": ["127.0.0.1/8", "::1/128"]}],
        "truncated": False,
    },
    "get_disk_usage": {
        "filesystems": [{"source": "/dev/vda", "mount_point": "/", "type": "ext4",
                         "read_only": False, "total_bytes": 1 << 30, "used_bytes": 1 << 20,
                         "available_bytes": 1 << 29, "inodes": 100, "inodes_free": 50}],
        "truncated": False,
    },
    "get_metrics": {
        "uptime": 5.5, "cpu": dict.fromkeys(("user", "system", "idle", "iowait", "steal"), 1.5),
        "load": [0.5, 0.25, 0],
        "memory": dict.fromkeys(
            ("total_bytes", "available_bytes", "free_bytes", "cached_bytes", "swap_total_bytes",
             "swap_free_bytes"), 4096),
        "pressure": {"cpu": {"some": 0.1, "full": 0}, "memory": None, "io": None},
        "disks": [{"name": "vda", "reads": 1, "writes": 2, "read_bytes": 3, "written_bytes": 4}],
        "network": [{"name": "lo", "received_bytes": 1, "sent_bytes": 2, "received_packets": 3,
                     "sent_packets": 4, "errors": 0}],
        "processes": {"total": 9, "running": 1, "blocked": 0},
    },
    "get_users": {
        "users": [{"uid": 0, "name": "root", "processes": 5}],
        "sessions": [{"user": "ada", "terminal": "pts/0", "remote_host": "", "since": None}],
        "truncated": False,
    },
    "exec_command": _PROCESS,
    "get_process": _PROCESS,
    "kill_process": {**_PROCESS, "status": "killed", "exit_code": None, "signal": 9},
    "file_read": {"data": ZERO, "end": True, "size": 1, "mode": 0o600, "modified": 10**18},
    "file_write": {"written": 1, "size": 1},
    "list_directory": {"entries": [_ENTRY, {**_ENTRY, "raw_name": "/w==", "kind": "symlink"}],
                       "more": False},
    "set_time": {"time": 10**18},
    "shutdown": {},
    "reboot": {},
    "sync_filesystems": {},
    "freeze_filesystems": {"count": 2},
    "thaw_filesystems": {"count": 2},
}  # fmt: skip


def line(message: object) -> bytes:
    """Return a message as a line."""
    return json.dumps(message).encode() + b"\n"


def result(request: Request, value: object) -> bytes:
    """Return an answer with a result."""
    return line({"jsonrpc": "2.0", "id": request["id"], "result": value})


def error(request: Request, code: object, message: object = "no", **more: object) -> bytes:
    """Return an answer with an error."""
    said = {"code": code, "message": message, **more}
    return line({"jsonrpc": "2.0", "id": request["id"], "error": said})


def good(request: Request) -> bytes:
    """Answer with a good result."""
    return result(request, GOOD[request["method"]])


def greeted(reply: Reply) -> Reply:
    """Negotiate well, and leave the rest to `reply`."""
    return lambda request: (good if request["method"] == "get_agent_info" else reply)(request)


class Peer:
    """Serves one connection after the other. `seen` are the requests, `lines` all lines."""

    def __init__(self, reply: Reply = good) -> None:
        self.reply = reply
        self.seen: list[Request] = []
        self.lines: list[bytes] = []
        self.wires: list[asyncio.StreamWriter] = []
        self.connections = 0

    @property
    def methods(self) -> list[str]:
        """The methods asked for, without the negotiation."""
        return [one["method"] for one in self.seen if one["method"] != "get_agent_info"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the client hangs up."""
        self.connections += 1
        self.wires.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.readline():
                self.lines.append(data)
                if data == b"\n":
                    continue
                self.seen.append(json.loads(data))
                writer.write(self.reply(self.seen[-1]))
                await writer.drain()
        writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send bytes that nobody asked for."""
        self.wires[-1].write(data)
        await self.wires[-1].drain()

    def hang_up(self) -> None:
        """Close the connection."""
        self.wires[-1].transport.abort()


@contextlib.asynccontextmanager
async def paired(
    reply: Reply = good, on_audit: Callable[[Audit], None] | None = None
) -> AsyncGenerator[tuple[AgentClient, Peer]]:
    """A client and its peer on a socket pair, as with a VMM."""
    ours, theirs = socket.socketpair()
    streams = await asyncio.open_connection(sock=ours)
    peer = Peer(reply)
    their_streams = await asyncio.open_connection(sock=theirs, limit=2 * MAX_REQUEST)
    serving = asyncio.create_task(peer.serve(*their_streams))
    client = AgentClient(over(*streams), on_audit)
    try:
        yield client, peer
    finally:
        await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for writer in (streams[1], their_streams[1]):
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def listening(path: Path, reply: Reply = good) -> AsyncGenerator[Peer]:
    """A peer at a unix socket, as with QEMU's `-chardev socket`."""
    peer = Peer(reply)
    server = await asyncio.start_unix_server(peer.serve, path, limit=2 * MAX_REQUEST)
    try:
        yield peer
    finally:
        server.close()
        for writer in peer.wires:
            writer.transport.abort()
        await server.wait_closed()
