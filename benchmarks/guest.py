# SPDX-License-Identifier: Apache-2.0
"""The other side of the comparisons: plain asyncssh that talks to a guest as a script would.

Uses no code of the server. The guest's login shell accepts `run ID` and a frame (see
src/waggle/infra/rootfs/kit/guest/frame.c).
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh


def frame(argv: Sequence[str], code: bytes | None = None, extension: str = "") -> bytes:
    """Return the stdin of `run` that starts `argv`, with `{file}` for the code."""
    fields = [f"a{word}" for word in argv]
    if code is not None:
        fields += [f"c{len(code)}", f"x{extension}"]
    body = b"".join(field.encode() + b"\0" for field in fields)
    return struct.pack(">I", len(body)) + body + (code or b"")


async def run(connection: asyncssh.SSHClientConnection, stdin: bytes) -> bytes:
    """Run the program of the frame `stdin`, return its output. Raises asyncssh.ProcessError."""
    done = await connection.run(f"run {uuid.uuid4()}", input=stdin, encoding=None, check=True)
    return bytes(done.stdout or b"")  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def connected(
    port: int, client_key: asyncssh.SSHKey | Path, known_hosts: Path | bytes
) -> AsyncGenerator[asyncssh.SSHClientConnection]:
    """Connect with asyncssh's defaults for everything that login does not need."""
    known = known_hosts if isinstance(known_hosts, bytes) else os.fspath(known_hosts)
    key = client_key if isinstance(client_key, asyncssh.SSHKey) else os.fspath(client_key)
    async with asyncssh.connect(
        "127.0.0.1", port, username="root", client_keys=[key], known_hosts=known, config=None
    ) as connection:
        yield connection
