# SPDX-License-Identifier: Apache-2.0
"""How a server ends: by signals during work, by `kill -9`, and what the next server finds."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from tests.support.server import ERAS, data_of
from tests.support.server_ports import next_ports
from tests.support.waggle_client import (
    CREATE,
    bare,
    call,
    connected,
    create,
    execute,
    heard,
    status,
    streaming,
    until,
)
from tests.support.waggle_process import Waggle, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    """A server that the test starts with its own settings; killed at the end of the test."""
    server = Waggle(tmp_path, small(tmp_path))
    yield server
    server.kill()
    assert server.remains() == {}


async def test_sigterm_lets_a_create_and_an_execution_finish(server: Waggle) -> None:
    server.settings["templates"] = "off"  # so that the create takes long enough
    server.start()
    results: dict[str, Any] = {}

    async def work(name: str, tool: str, arguments: object) -> None:
        async with streaming(server, *bare(tool, arguments)) as lines:
            results[name] = await heard(lines, '"result"')

    async with connected(server) as client:
        environment = await create(client, "shell")
    code = {"environment_id": environment, "code": "echo >started; busybox sleep 3; echo finished"}
    async with anyio.create_task_group() as group:
        group.start_soon(work, "execute", "execute", code)
        await until(lambda: _started(server, environment))
        async with streaming(server, *bare(*CREATE)) as lines:
            await heard(lines, "Booting the machine")
            server.send(signal.SIGTERM)
            await until(lambda: server.events("draining"))
            assert (await status(server, "/readyz"))[1]["reason"] == "The server is shutting down."
            assert (await status(server, "/healthz"))[0] == 200
            results["create"] = await heard(lines, '"result"')
    assert "finished" in results["execute"]
    assert '"status":"running"' in results["create"]
    assert await server.wait() == 0
    assert server.remains() == {}
    assert server.complaints() == []


async def test_sigterm_loses_no_result_of_clients_that_never_listed_the_tools(
    server: Waggle,
) -> None:
    """SDK clients list the tools on a result, to check it, and lose the result if they cannot."""
    server.start()
    async with connected(server) as client:
        environment = await create(client, "shell")
    said: list[str] = []

    async def work(era: str) -> None:
        async with connected(server, era) as client:
            code = f"echo >started-{era}; busybox sleep 8; echo {era}"
            said.append(await execute(client, environment, code))

    async with anyio.create_task_group() as group:
        for era in ERAS:
            group.start_soon(work, era)
        for era in ERAS:
            await until(lambda: _started(server, environment, f"started-{era}"))  # noqa: B023 - awaited here
        assert said == []
        server.send(signal.SIGTERM)
    assert sorted(said) == sorted(f"{era}\n" for era in ERAS)
    assert await server.wait() == 0
    assert server.remains() == {}
    assert server.complaints() == []


async def _started(server: Waggle, environment: str, path: str = "started") -> bool:
    arguments = {"environment_id": environment, "path": path}
    async with streaming(server, *bare("read_file", arguments)) as lines:
        return '"isError":true' not in await heard(lines, '"result"')


async def _cut(server: Waggle, *signals: signal.Signals) -> float:
    """Signal a server that runs an endless program; return the seconds until it has ended."""
    async with connected(server) as client:
        environment = await create(client, "shell")
    code = {"environment_id": environment, "code": "echo >started; busybox sleep 987"}
    async with anyio.create_task_group() as group:

        async def hang() -> None:
            try:
                async with streaming(server, *bare("execute", code)) as lines:
                    async for line in lines:
                        assert '"exit_code":0' not in line
            except httpx2.HTTPError:
                return  # a cut in the middle of the answer is fine, too

        group.start_soon(hang)
        await until(lambda: _started(server, environment))
        began = time.monotonic()
        for number, sent in enumerate(signals, 1):
            server.send(sent)
            await until(lambda: len(server.events("stopping")) == number)  # noqa: B023 - awaited here
        assert await server.wait() == 0
        return time.monotonic() - began
    raise AssertionError("unreachable")


async def test_sigterm_ends_programs_that_outlast_the_grace_period(server: Waggle) -> None:
    server.settings["shutdown_timeout"] = "2s"
    server.start()
    assert 2 <= await _cut(server, signal.SIGTERM) < 12
    assert server.remains() == {}
    assert server.complaints() == []


async def test_a_second_sigint_ends_programs_at_once(server: Waggle) -> None:
    server.settings["shutdown_timeout"] = "5m"
    server.start()
    assert await _cut(server, signal.SIGINT, signal.SIGINT) < 10
    assert server.remains() == {}
    assert server.complaints() == []


async def test_sigterm_ends_a_create_that_outlasts_the_grace_period(server: Waggle) -> None:
    server.settings |= {"shutdown_timeout": "10ms", "templates": "off"}
    server.start()
    try:
        async with streaming(server, *bare(*CREATE)) as lines:
            await heard(lines, "Booting the machine")
            server.send(signal.SIGTERM)
            async for line in lines:
                assert '"status":"running"' not in line
    except httpx2.HTTPError:
        pass  # a cut in the middle of the answer is fine, too
    assert await server.wait() == 0
    assert server.remains() == {}
    assert server.complaints() == []


async def test_the_next_server_after_kill_9_removes_all_remains(server: Waggle) -> None:
    server.start()
    async with connected(server) as client:
        kept = [await create(client, "shell") for _ in range(2)]
        assert len(server.machines()) == 2
        async with streaming(server, *bare(*CREATE)) as lines:
            await heard(lines, "Booting the machine")
            server.kill()
    gone = {"directories": server.directories()}
    assert len(gone["directories"]) == 3
    await until(lambda: server.remains() == gone, what="machines and ports end with their server")

    server.start()
    assert server.remains() == {}
    assert len(server.events("environment_removed_at_start")) == 3
    async with connected(server) as client:
        assert (await call(client, "list_environments")).get("count", 0) == 0
        for environment in kept:
            ended = await call(client, "destroy_environment", environment_id=environment)
            assert ended["status"] == "destroyed"
        assert await execute(client, await create(client, "shell"), "echo again") == "again\n"
    server.end()
    assert server.remains() == {}
    assert server.complaints() == []

    server.start()
    assert server.events("environment_removed_at_start") == [], (
        "an orderly end leaves nothing to recover"
    )
    server.end()


async def test_a_second_server_on_a_data_directory_is_refused(server: Waggle) -> None:
    server.start()
    async with connected(server) as client:
        environment = await create(client, "shell")
        other = Waggle(server.directory / "other", server.settings, ports=next_ports())
        other.data = server.data
        other.launch()
        assert await other.wait() == 1
        message, hint = other.text().splitlines()
        assert message == (
            f"waggle: {server.data} is used by another waggle server "
            f"(process {server.process.pid})."
        )
        assert "WAGGLE_DATA_DIR" in hint
        assert await execute(client, environment, "echo unharmed") == "unharmed\n"
    server.end()


async def test_two_servers_can_share_a_port_range(server: Waggle) -> None:
    """The servers share a host: neither takes a port of the other."""
    server.start()
    other = Waggle(server.directory / "other", server.settings, ports=server.ports)
    other.start()
    try:
        made: list[dict[str, Any]] = []

        async def one(target: Waggle) -> None:
            async with connected(target) as client:
                identity = data_of(await client.call_tool(*CREATE))["environment_id"]
                about = {"environment_id": identity}
                made.append(data_of(await client.call_tool("get_environment", about)))

        async with anyio.create_task_group() as group:
            group.start_soon(one, server)
            group.start_soon(one, other)
        assert len({environment["ssh_port"] for environment in made}) == 2
    finally:
        other.end()
    server.end()
