# SPDX-License-Identifier: Apache-2.0
"""`waggle demo`: start a server, use it as an MCP client would, show results and times.

The server is a real `waggle serve` on a free port, with the images of this installation and a data
directory that is deleted at the end.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp_types import TextContent

from waggle.cli.client import connected, progress_to
from waggle.cli.progress import interruptible, say, working
from waggle.cli.setup import surroundings
from waggle.cli.storage.image import build
from waggle.config import Settings, load, process_environment
from waggle.domain.errors import SetupIncomplete

START_SECONDS = 120.0
"""Only for a server that hangs: its end is noticed at once. A start on a busy host took 30 s."""
STOP_SECONDS = 30.0
PACKAGE = "humanize"
PROGRAM = """\
import os, platform, sys
print(f"Hello from Linux {platform.release()} with Python {sys.version.split()[0]},")
print(f"as user {os.getuid()} on {os.cpu_count()} CPU.")
"""
USE_PACKAGE = "import humanize; print(humanize.naturalsize(10 * 1024**2))"
FILE = "/home/sandbox/notes/hello.txt"


def demo() -> None:
    """Run the main job once from start to end. Raises SetupIncomplete if this host is not ready."""
    settings = load()
    build(["python"], only_missing=True)
    environ = process_environment()
    extra = surroundings(environ)
    for name, value in extra.items():
        say(f"This network needs {name}={value}; set it for your own server too.")
    work = partial(_demo, settings, {**environ, **extra})
    on_signal = partial(say, "Interrupted: the server destroys its environments, and stops.")
    anyio.run(interruptible, work, on_signal)


async def _demo(settings: Settings, environ: Mapping[str, str]) -> None:
    started = time.monotonic()
    async with _server(settings, environ) as url:
        say(f"A server listens at {url} (only its warnings are shown)")
        async with connected(url, settings.token.get_secret_value()) as client:
            await _tour(client)
    say(f"The server has stopped. The demo took {time.monotonic() - started:.1f} s")


async def _tour(client: Client) -> None:
    """Run the steps. When one fails, the server destroys the environment as it stops."""
    created = await _step(
        client, "Create a python environment", "create_environment", runtime="python"
    )
    environment = str(created["environment_id"])
    await _step(client, "Run a program", "execute", environment_id=environment, code=PROGRAM)
    await _step(
        client,
        "Write a file",
        "write_file",
        environment_id=environment,
        path=FILE,
        content="written over MCP\n",
    )
    await _step(client, "Read it back", "read_file", environment_id=environment, path=FILE)
    await _step(
        client,
        f"Install {PACKAGE}",
        "install_packages",
        environment_id=environment,
        packages=[PACKAGE],
    )
    await _step(client, "Use it", "execute", environment_id=environment, code=USE_PACKAGE)
    await _step(client, "Destroy it", "destroy_environment", environment_id=environment)


async def _step(client: Client, title: str, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool with live progress and show its text. Raises SetupIncomplete on an error."""
    with working(title) as report:
        result = await client.call_tool(tool, arguments, progress_callback=progress_to(report))
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    for line in text.strip().splitlines()[-8:]:
        say(f"    {line}")
    structured: dict[str, Any] = result.structured_content or {}
    if result.is_error or structured.get("exit_code"):
        raise SetupIncomplete(f"The demo stopped: {title.lower()} failed.", hint="See above.")
    return structured


@asynccontextmanager
async def _server(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[str]:
    """Run a `waggle serve` until the block ends, then stop it and delete its data."""
    with tempfile.TemporaryDirectory(prefix="waggle-demo-") as data:
        port = _free_port()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waggle", "serve"),
            env={
                **environ,
                "WAGGLE_LISTEN_ADDR": f"127.0.0.1:{port}",
                "WAGGLE_DATA_DIR": data,
                "WAGGLE_IMAGE_CACHE_DIR": str(settings.image_cache_dir),
                "WAGGLE_LOG_LEVEL": environ.get("WAGGLE_LOG_LEVEL", "warning"),
            },
        )
        try:
            await _until_ready(f"http://127.0.0.1:{port}/readyz", process)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask the server to stop, so that it destroys its environments; kill it if it does not."""
    if process.returncode is None:
        process.terminate()
    with anyio.move_on_after(STOP_SECONDS):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _until_ready(url: str, process: asyncio.subprocess.Process) -> None:
    reason = "it did not answer"
    async with httpx2.AsyncClient() as http:
        with anyio.move_on_after(START_SECONDS):
            while process.returncode is None:
                try:
                    response = await http.get(url)
                except httpx2.HTTPError:
                    await anyio.sleep(0.1)
                    continue
                if response.status_code == 200:
                    return
                reason = response.text
                await anyio.sleep(0.5)
    if process.returncode is not None:
        reason = f"it ended with status {process.returncode}, see above"
    raise SetupIncomplete(f"The server did not become ready: {reason}.")
