# SPDX-License-Identifier: Apache-2.0
"""Large answers over stdio, to the SDK's client that started the server."""

from __future__ import annotations

import base64
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp_types import BlobResourceContents
from tests.support.server import ERAS, created, data_of
from tests.support.stdio_program import STDIO_PROGRAM

pytestmark = pytest.mark.anyio
TWO_MB = 2_000_000
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def agent_of(era: str, log: Path) -> AsyncGenerator[Client]:
    program, arguments = STDIO_PROGRAM[0], STDIO_PROGRAM[1:]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    parameters = StdioServerParameters(command=program, args=arguments, env=variables, cwd=ROOT)
    with log.open("w") as errors:
        transport = stdio_client(parameters, errlog=errors)
        async with Client(transport, mode=era, read_timeout_seconds=60) as agent:
            yield agent


@pytest.mark.parametrize("era", ERAS)
async def test_two_megabytes_are_written_and_read_back(era: str, tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(TWO_MB)
    contents: dict[str, tuple[str, dict[str, Any]]] = {
        "/tmp/lines": ("line \u20ac\n" * (TWO_MB // 9), {}),
        "/tmp/controls": ("\x01" * (TWO_MB // 4), {}),
        "/tmp/noise": (base64.b64encode(noise).decode(), {"encoding": "base64"}),
    }
    async with agent_of(era, tmp_path / "log") as agent:
        environment = await created(agent)
        for path, (content, how) in contents.items():
            where = {"environment_id": environment, "path": path}
            written = await agent.call_tool("write_file", {**where, "content": content, **how})
            assert not written.is_error, written
            # One answer that holds the content twice, for a client that requests it.
            read = data_of(await agent.call_tool("read_file", {**where, **how, "limit": TWO_MB}))
            assert "next_offset" not in read
            assert read["content"] == content
        # The largest page of a resource, which any client gets and which holds it once.
        (page,) = (
            await agent.read_resource(f"waggle://environments/{environment}/files/tmp/noise")
        ).contents
        assert isinstance(page, BlobResourceContents)
        assert noise.startswith(base64.b64decode(page.blob))
