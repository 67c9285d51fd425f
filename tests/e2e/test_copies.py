# SPDX-License-Identifier: Apache-2.0
"""Random numbers in environments that resume from one template: never the same twice.

tests/vm/test_templates.py compares the kernels of a hundred copies; these tests check the
interpreters and OpenSSL.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from mcp import Client
from tests.support.waggle_client import connected, create, execute
from tests.support.waggle_process import have_templates, running

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(300)]
COPIES = 4
PYTHON = """
import os, random, secrets, ssl, uuid
print(os.urandom(16).hex(), secrets.token_hex(16), ssl.RAND_bytes(16).hex(), uuid.uuid4())
print(random.random(), hash("text"))
"""
NODE = """
const crypto = require("crypto");
console.log(crypto.randomBytes(16).toString("hex"), crypto.randomUUID(), Math.random());
"""


@pytest.mark.parametrize("runtime,code,draws", [("python", PYTHON, 6), ("node", NODE, 3)])
async def test_interpreters_and_openssl_draw_different_numbers_in_each_copy(
    tmp_path: Path, runtime: str, code: str, draws: int
) -> None:
    have_templates(runtime)
    settings = {"max_environments": str(COPIES), "default_network": "none"}
    drawn: list[list[str]] = []

    async def one(client: Client) -> None:
        environment = await create(client, runtime)
        drawn.append((await execute(client, environment, code)).split())

    with running(tmp_path, settings) as server:
        async with connected(server) as client, anyio.create_task_group() as group:
            for _ in range(COPIES):
                group.start_soon(one, client)
        made = server.events("environment_created")
    assert all(environment["template"] for environment in made), "they booted"
    assert [len(numbers) for numbers in drawn] == [draws] * COPIES
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == COPIES, values
