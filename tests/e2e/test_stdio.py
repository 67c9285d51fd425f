# SPDX-License-Identifier: Apache-2.0
"""`waggle serve --stdio` as desktop clients start it: several at once, killed, and not read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.support.server import ERAS, INITIALIZE
from tests.support.waggle_client import create, execute, until
from tests.support.waggle_process import small
from tests.support.waggle_stdio import ARGV, Desktop

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def desktop(tmp_path: Path) -> Desktop:
    """A desktop without images: servers start, machines do not."""
    return Desktop(tmp_path, {"image_cache_dir": str(tmp_path / "cache")})


def popen(desktop: Desktop, log: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ARGV,
        env=desktop.variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )


@pytest.mark.parametrize("era", ERAS)
async def test_the_sdk_client_in_both_eras(desktop: Desktop, tmp_path: Path, era: str) -> None:
    async with desktop.client(tmp_path / "log", era) as client:
        listed = await client.list_tools()
        assert "create_environment" in {tool.name for tool in listed.tools}
        result = await client.call_tool("execute", {"environment_id": "x", "code": "1"})
        assert result.is_error
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events[0] == "serving_stdio"
    assert desktop.left() == {}


async def test_standard_output_carries_messages_only(desktop: Desktop) -> None:
    """Not even if code prints: the line below runs in the server's own process."""
    program = (
        "import atexit, os, subprocess, sys; from waggle.cli import main;"
        "import waggle.mcp.server as s; build = s.build_mcp\n"
        "def noisy(services):\n"
        "    print('printed', flush=True); os.write(1, b'written')\n"
        "    subprocess.run(['echo', 'child'])\n"
        "    return build(services)\n"
        "import waggle.app.serving as a; a.build_mcp = noisy\n"
        "sys.argv = ['waggle', 'serve', '--stdio']; main.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=desktop.variables,
        input=json.dumps(INITIALIZE).encode() + b"\n",
        capture_output=True,
        timeout=120,
        check=False,
    )
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["result"]["serverInfo"]["name"] == "waggle"
    assert all(word in ended.stderr for word in (b"printed", b"written", b"child"))


async def test_a_client_that_never_reads_the_log_is_served(desktop: Desktop) -> None:
    """Every line that is not a message is logged: together far more than a pipe holds."""
    with popen(desktop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3000):
            process.stdin.write(b"no message %d\n" % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["error"]["code"] == -32700
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_stop_the_server(desktop: Desktop, number: signal.Signals) -> None:
    with popen(desktop) as process:
        assert process.stderr is not None
        assert b"serving_stdio" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(60) == 0
        said, logged = process.communicate()
    assert said == b""
    assert b"drained" in logged
    assert desktop.left() == {}


async def test_a_closed_standard_input_is_reported(desktop: Desktop) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *ARGV]
    ended = subprocess.run(
        command, env=desktop.variables, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert b"Standard input or output is closed" in ended.stderr


@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_concurrent_servers_have_own_machines_that_end_with_them(tmp_path: Path) -> None:
    desktop = Desktop(tmp_path, small(tmp_path))
    async with desktop.client(tmp_path / "first") as first:
        async with desktop.client(tmp_path / "second", "2026-07-28") as second:
            mine, other = await create(first, "shell"), await create(second, "shell")
            assert await execute(first, mine, "echo one") == "one\n"
            assert await execute(second, other, "echo two") == "two\n"
            machines = desktop._look.machines()
            assert len(machines) == 2
            if os.geteuid() == 0:
                assert len({Path(f"/proc/{pid}").stat().st_uid for pid in machines}) == 2
            refused = await first.call_tool("execute", {"environment_id": other, "code": "1"})
            assert refused.is_error
        await until(lambda: len(desktop._look.machines()) == 1)
        assert await execute(first, mine, "echo still") == "still\n"
    await until(lambda: desktop.left() == {})


@pytest.mark.vm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("whom", ["client", "server"])
async def test_nothing_stays_behind_after_sigkill(tmp_path: Path, whom: str) -> None:
    """A killed client's end of the pipe closes; the next server cleans up after a killed server."""
    desktop = Desktop(tmp_path, small(tmp_path))
    process = popen(desktop, subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    call = {"name": "create_environment", "arguments": {"runtime": "shell"}}
    messages = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    process.stdin.writelines(json.dumps(message).encode() + b"\n" for message in messages)
    process.stdin.flush()
    while b'"id":2' not in await anyio.to_thread.run_sync(process.stdout.readline):
        pass
    assert len(desktop._look.machines()) == 1
    if whom == "client":
        process.stdin.close()
        process.stdout.close()
        assert await anyio.to_thread.run_sync(lambda: process.wait(30)) == 0
    else:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        await until(lambda: [*desktop.left()] == ["states"], what="only its directory is left")
        async with desktop.client(tmp_path / "next"):
            assert len(list((desktop.data / "stdio").glob("*/environments/*"))) == 0
    await until(lambda: desktop.left() == {}, what="nothing is left")
