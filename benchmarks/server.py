# SPDX-License-Identifier: Apache-2.0
"""A real `waggle serve` process with its own data, and a real MCP client of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import httpx2
from mcp import Client

from benchmarks import guest
from waggle.cli.client import call
from waggle.config import Settings, load

READY_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `data` and `temporary` are used by nothing else."""

    url: str
    pid: int
    data: Path
    temporary: Path
    settings: Settings


@asynccontextmanager
async def serving(
    before: Callable[[Path], Awaitable[None]] | None = None,
    more: Mapping[str, str] | None = None,
    *,
    within: Sequence[str] = (),
    log: Path | None = None,
) -> AsyncGenerator[Server]:
    """Start a server and wait until it is ready; at the end stop it and delete its data.

    `before` is called first with its data directory; `more` are variables of its environment. It
    makes no templates unless these say so: every create boots. `within` are words before its
    command, and `log` gets its stderr. Raises RuntimeError if it does not get ready.
    """
    settings = load()
    with tempfile.TemporaryDirectory(prefix="waggle-bench-") as name:
        data, temporary = Path(name, "data"), Path(name, "tmp")
        data.mkdir(mode=0o700)
        temporary.mkdir()
        if before is not None:
            await before(data)
        port = free_port()
        environ = {
            **os.environ,
            "WAGGLE_LISTEN_ADDR": f"127.0.0.1:{port}",
            "WAGGLE_DATA_DIR": str(data),
            "WAGGLE_IMAGE_CACHE_DIR": str(settings.image_cache_dir),
            "WAGGLE_LOG_LEVEL": "warning",
            "WAGGLE_TEMPLATES": "off",
            "TMPDIR": str(temporary),
            **(more or {}),
        }
        with contextlib.ExitStack() as stack:
            stderr = None if log is None else stack.enter_context(log.open("ab"))
            argv = (*within, sys.executable, "-m", "waggle", "serve")
            process = await asyncio.create_subprocess_exec(*argv, env=environ, stderr=stderr)
        url = f"http://127.0.0.1:{port}"
        try:
            await _until_ready(url, process)
            yield Server(f"{url}/mcp", process.pid, data, temporary, settings)
        finally:
            await asyncio.shield(stopped(process))


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Stop a process with SIGTERM, which destroys its environments; kill it only if that fails."""
    if process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _until_ready(url: str, process: asyncio.subprocess.Process) -> None:
    reason = "it does not answer"
    async with httpx2.AsyncClient() as http:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while process.returncode is None:
                    try:
                        answer = await http.get(f"{url}/readyz")
                    except httpx2.HTTPError:
                        await asyncio.sleep(0.1)
                        continue
                    if answer.status_code == 200:
                        return
                    reason = answer.text
                    await asyncio.sleep(0.2)
    raise RuntimeError(f"the server is not ready: {reason} (status {process.returncode})")


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Made:
    """An environment that was created over MCP."""

    id: str
    ssh_port: int


async def create(client: Client, runtime: str, secrets: Sequence[str] = ()) -> Made:
    """Create an environment."""
    made = await call(client, "create_environment", runtime=runtime, secrets=[*secrets])
    identity = str(made["environment_id"])
    state = await call(client, "get_environment", environment_id=identity)
    return Made(identity, int(state["ssh_port"]))


async def destroy(client: Client, environment_id: str) -> None:
    """Destroy an environment, even if the caller is being cancelled."""
    await asyncio.shield(call(client, "destroy_environment", environment_id=environment_id))


@asynccontextmanager
async def environment(
    client: Client, runtime: str, secrets: Sequence[str] = ()
) -> AsyncGenerator[Made]:
    """Create an environment for the length of the block."""
    made = await create(client, runtime, secrets)
    try:
        yield made
    finally:
        await destroy(client, made.id)


@asynccontextmanager
async def ssh_into(server: Server, made: Made) -> AsyncGenerator[asyncssh.SSHClientConnection]:
    """Connect to a guest over SSH directly, with the keys that `waggle shell` uses."""
    files = server.data / "environments" / made.id
    async with guest.connected(
        made.ssh_port, files / "ssh_key", files / "known_hosts"
    ) as connection:
        yield connection
