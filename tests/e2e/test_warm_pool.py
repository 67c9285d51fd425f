# SPDX-License-Identifier: Apache-2.0
"""A server with a warm pool: creates claim its machines, they are replaced, and nothing is left."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from tests.support.waggle_client import call, connected, create, execute, status, until
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
FILL_SECONDS = 240
POOL = {"warm_pool": "shell:1", "metrics": "true", "max_environments": "2"}


async def waiting(server: Waggle) -> int:
    async with httpx2.AsyncClient() as http:
        page = (await http.get(f"{server.url}/metrics")).text
    found = re.search(r'^waggle_warm_machines\{runtime="shell"\} (\d+)', page, re.MULTILINE)
    assert found is not None, page
    return int(found[1])


async def filled(server: Waggle) -> None:
    async def is_filled() -> bool:
        return await waiting(server) == 1

    await until(is_filled, FILL_SECONDS, "a machine that waits")


def homes(server: Waggle) -> set[str]:
    return {directory.name for directory in (server.data / "environments").iterdir()}


async def test_a_create_is_served_from_the_pool_which_is_filled_again(tmp_path: Path) -> None:
    """The pool's machines boot here; in the other tests they resume from a template."""
    with running(tmp_path, {**small(tmp_path), **POOL, "templates": "off"}) as server:
        await filled(server)
        (waits,) = homes(server)
        machine = (server.data / "environments" / waits / "scratch.img").stat().st_ino
        async with connected(server) as client:
            assert (await call(client, "list_environments")).get("count", 0) == 0
            made = await create(client, "shell", name="claimed", network="public")
            scratch = server.data / "environments" / made / "scratch.img"
            assert scratch.stat().st_ino == machine  # the warm machine
            assert await execute(client, made, "hostname; echo $http_proxy") == (
                "claimed\nhttp://127.0.0.1:3128\n"
            )
            who = "hostname; echo $http_proxy; cat /etc/machine-id"
            before = await execute(client, made, f"echo kept >note; {who}")
            await call(client, "restart_environment", environment_id=made)
            assert await execute(client, made, f"{who}; cat note") == f"{before}kept\n"
            await filled(server)
            other = await create(client, "shell")
            assert await waiting(server) == 0
            assert (await status(server, "/readyz"))[0] == 503  # both slots are in use
            for environment in (made, other):
                await call(client, "destroy_environment", environment_id=environment)
            await filled(server)
            assert (await status(server, "/readyz"))[0] == 200


async def test_a_pool_takes_no_slot_from_a_create(tmp_path: Path) -> None:
    """A warm machine cannot serve a client's own image, so it gives up its slot."""
    settings = {**small(tmp_path), **POOL, "max_environments": "1"}
    with running(tmp_path, settings) as server:
        await filled(server)
        async with connected(server) as client:
            made = await create(client, "python", network="none")
            assert await waiting(server) == 0
            assert homes(server) == {made}
            assert await execute(client, made, "print(1)") == "1\n"


async def test_nothing_is_left_of_the_pool_of_a_killed_server(tmp_path: Path) -> None:
    with running(tmp_path, {**small(tmp_path), **POOL}) as server:
        await filled(server)
        (before,) = homes(server)
        server.kill()
        server.start()
        assert before not in homes(server)
        await filled(server)
