# SPDX-License-Identifier: Apache-2.0
"""`waggle agent` with the agent itself, compiled for this host, behind a socket as of QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio.from_thread
import pytest
from tests.cli.agent.ended import Run
from tests.support.agent_program import built_agent, running_agent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_agent(tmp_path_factory)


@contextlib.asynccontextmanager
async def port(path: Path, program: Path, directory: Path) -> AsyncGenerator[None]:
    """Copy between the one who connects and the agent, for any number of clients in turn."""
    with running_agent(program, directory) as agent:
        wire = agent.wire.dup()
        wire.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=wire)
        copies: list[asyncio.Task[None]] = []

        async def serve(theirs: asyncio.StreamReader, ours: asyncio.StreamWriter) -> None:
            copies[:] = [
                asyncio.create_task(copy(theirs, writer)),
                asyncio.create_task(copy(reader, ours)),
            ]
            await copies[0]
            copies[1].cancel()
            ours.transport.abort()

        server = await asyncio.start_unix_server(serve, path)
        try:
            yield
        finally:
            server.close()
            for one in copies:
                one.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@pytest.fixture(autouse=True)
def served(socket: Path, program: Path, tmp_path: Path) -> Generator[None]:
    directory = tmp_path / "policy"
    directory.mkdir()
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(port(socket, program, directory)),
    ):
        yield


def test_what_the_machine_is(ask: Run) -> None:
    assert "'waggle-agent' answered in" in ask("ping").text
    assert f"kernel: {platform.release()}" in ask("get_system_info").text
    for method in ("get_agent_info", "get_network_info", "get_disk_usage", "get_metrics"):
        ended = ask(method)
        assert (ended.code, ended.err) == (0, "")
        assert len(ended.text.splitlines()) > 3


def test_a_program(ask: Run) -> None:
    ended = ask("exec_command", 'argv=["/bin/sh", "-c", "cat; echo no >&2; exit 3"]', "input=in")
    assert (ended.code, ended.out, ended.err) == (3, b"in", "no\n")
    assert ask("exec_command", 'argv=["/bin/sleep", "60"]', "timeout=1").code == 124
    assert "no process 99" in ask("get_process", "process=99").err


def test_a_file_there_and_back(ask: Run, tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    source.write_bytes(random.Random(5).randbytes(3_000_000))
    assert ask("file_write", f"path={there}", f"data=@{source}", "mode=0600").code == 0
    assert there.read_bytes() == source.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o600
    assert ask("file_read", f"path={there}", "--output", back).code == 0
    assert back.read_bytes() == source.read_bytes()
    assert ask("file_read", f"path={there}", "offset=5", "length=3").out == there.read_bytes()[5:8]
    listed = ask("list_directory", f"path={tmp_path}").text
    assert "there" in listed
    assert "0600" in listed
    assert ask("file_read", f"path={tmp_path}/nothing").code == 1
