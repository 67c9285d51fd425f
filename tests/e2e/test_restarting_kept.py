# SPDX-License-Identifier: Apache-2.0
"""What an agent finds after the restart of a real machine: ports, keys, jobs, files, refusals."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from tests.support.server import NO_TLS
from tests.support.waggle_client import call, connected, create, execute, refusal, until
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
SERVE = "exec busybox httpd -f -p 8000 -h /srv"
STUBBORN = "trap '' TERM; echo up; while :; do busybox sleep 600; done"
REFUSED = "refused.example:80"
AT_ONCE = 5.0
"""Seconds in which a port says that its machine is down; a restart takes more."""


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    own = {"max_environments": "2", "toolsets": "full", "max_calls_per_minute": "10000"}
    with running(tmp_path, {**small(tmp_path), **own}) as server:
        yield server


async def test_an_agent_goes_on_after_a_restart(server: Waggle) -> None:
    keyed = {"network": "example.org", "idempotency_key": "make"}
    async with (
        connected(server) as client,
        httpx2.AsyncClient(timeout=60, verify=NO_TLS) as http,
    ):
        box = await create(client, "shell", **keyed)
        here = {"environment_id": box}
        run = {**here, "code": "echo once >>runs", "idempotency_key": "run"}
        ran = await call(client, "execute", **run)
        await install(client, box)
        early = (await call(client, "execute", **here, code="echo early"))["job_id"]
        local = await served(client, box, first=True)
        url = f"{server.url}/e/{box}/8000"
        for way in (local, url):
            assert (await http.get(f"{way}/page")).text == "hello\n"
        stubborn = (await call(client, "execute", **here, code=STUBBORN, background=True))["job_id"]
        await until(lambda: printed(client, box, stubborn, "up\n"), 30)
        await client.call_tool("execute", {**here, "code": f"wget -qO- http://{REFUSED}/"})
        before = await refusals(client, box)
        assert before["last_refused"][0]["to"] == REFUSED

        down: list[httpx2.Response] = []
        done = await restarted(client, server, box, http, local, down)
        assert [answer.status_code for answer in down] == [503] * len(down)
        assert "is being restarted. Try again" in down[0].text
        assert done["note"].endswith("start what listens there again.")
        assert f"job {stubborn}" in done["gone"]

        silent = await http.get(f"{url}/page")
        assert (silent.status_code, "Nothing listens on port 8000" in silent.text) == (502, True)
        assert await served(client, box) == local
        for way in (local, url):
            assert (await http.get(f"{way}/page")).text == "hello\n"

        assert (await execute(client, box, "hello; busybox cat runs")).split() == ["hi", "once"]
        assert await call(client, "execute", **run) == ran
        again = await call(client, "create_environment", runtime="shell", **keyed)
        assert again["environment_id"] == box
        assert (await execute(client, box, "busybox cat runs")).split() == ["once"]

        lost = await call(client, "read_job", **here, job_id=stubborn, stream="stdout")
        assert lost["status"] == "lost"
        why = await refusal(client, "wait_job", **here, job_id=stubborn)
        assert "ended by a restart of the environment at 20" in why["message"]
        read = await call(client, "read_job", **here, job_id=early, stream="stdout")
        assert read["content"] == "early\n"

        after = await refusals(client, box)
        assert after["refused"] == before["refused"]
        assert after["last_refused"][0]["to"] == REFUSED
        await call(client, "destroy_environment", **here)


async def test_a_restarted_copy_says_that_it_has_no_output_of_jobs_before_it(
    server: Waggle,
) -> None:
    async with connected(server) as client:
        box = await create(client, "shell")
        early = (await call(client, "execute", environment_id=box, code="echo early"))["job_id"]
        forked = await call(client, "fork_environment", environment_id=box, count=1)
        copy = {"environment_id": forked["environments"][0]["environment_id"]}
        await call(client, "restart_environment", **copy)
        gone = await refusal(client, "read_job", **copy, job_id=early, stream="stdout")
        assert gone["code"] == "job_not_found"
        assert "a restart removes it" in gone["message"]
        for made in ({"environment_id": box}, copy):
            await call(client, "destroy_environment", **made)


async def install(client: Client, box: str) -> None:
    """Install a program as root, as a package would be."""
    code = (
        "busybox printf '#!/bin/busybox sh\\necho hi\\n' >/bin/hello; busybox chmod 755 /bin/hello"
    )
    await execute(client, box, code, user="root")


async def served(client: Client, box: str, *, first: bool = False) -> str:
    """Serve a page on the exposed port; return the URL of the port on this host."""
    if first:
        page = "busybox mkdir -p /srv; echo hello >/srv/page; busybox chmod 755 /srv"
        await execute(client, box, page, user="root")
    here = {"environment_id": box}
    await call(client, "execute", **here, code=SERVE, background=True)
    opened = await call(client, "expose_port", **here, port=8000, wait_seconds=60)
    assert opened["listening"]
    return str(opened["url"]).rstrip("/")


async def printed(client: Client, box: str, job: int, text: str) -> bool:
    read = await call(client, "read_job", environment_id=box, job_id=job, stream="stdout")
    return bool(read.get("content") == text)


async def refusals(client: Client, box: str) -> dict[str, Any]:
    seen = await call(client, "get_environment", environment_id=box)
    return dict(seen["network_use"])


async def restarted(
    client: Client,
    server: Waggle,
    box: str,
    http: httpx2.AsyncClient,
    local: str,
    down: list[httpx2.Response],
) -> dict[str, Any]:
    """Restart it, and ask its port meanwhile; its program uses all of its time to end.

    On this host the port is bytes of any protocol, so a connection ends without words.
    """
    results: list[dict[str, Any]] = []
    waited: list[str] = []

    async def use() -> None:
        async with connected(server) as other:
            waited.append(await execute(other, box, "echo waited"))

    async def restart() -> None:
        async with connected(server) as other:
            results.append(await call(other, "restart_environment", environment_id=box))

    async with anyio.create_task_group() as group:
        group.start_soon(restart)
        began = time.monotonic()
        while not results and time.monotonic() - began < 300:
            seen = await call(client, "get_environment", environment_id=box)
            if seen["status"] == "resuming" and len(down) < 3:
                if not down:
                    group.start_soon(use)
                asked = time.monotonic()
                down.append(await http.get(f"{server.url}/e/{box}/8000/page"))
                with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):  # EOF or reset
                    await http.get(f"{local}/page")
                assert time.monotonic() - asked < AT_ONCE
            await anyio.sleep(0.1)
    assert down
    assert waited == ["waited\n"]
    return results[0]
