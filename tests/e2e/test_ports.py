# SPDX-License-Identifier: Apache-2.0
"""Exposed ports of a real machine: by every URL, in every form, through pauses and a restart."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client
from tests.support import guest_server
from tests.support.server import NO_TLS
from tests.support.waggle_client import call, connected, create
from tests.support.waggle_process import Waggle, beside, running
from websockets.asyncio.client import connect

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]
PLACES = {80: "127.0.0.1:80", 8001: "::1:8001"}
LARGE = hashlib.sha256(b"waggle").digest() * (16 << 15)
SETTINGS = {"max_environments": "2", "default_network": "none", "expose_host": "localhost"}


async def test_ports_are_reached_in_every_way_and_outlive_pauses_and_a_restart(
    tmp_path: Path,
) -> None:
    with running(tmp_path, SETTINGS) as server:
        async with connected(server) as client:
            box = await create(client, "python", name="box")
            program = Path(guest_server.__file__).read_text()
            command = ["python3", "-c", program, *PLACES.values()]
            made = {"environment_id": box, "command": command, "background": True}
            await call(client, "run_command", **made)
            urls = [await exposed(client, box, port) for port in PLACES]
            async with httpx2.AsyncClient(timeout=60, verify=NO_TLS) as http:
                await check_every_form(server, http, box)
                await check_the_link_of_the_command_line(server, http)
                await call(client, "pause_environment", environment_id=box)
                await check_wake(server, http, box, urls[0])
            await call(client, "pause_environment", environment_id=box, to_disk=True)
        server.end()
        server.start()
        async with httpx2.AsyncClient(timeout=60, verify=NO_TLS) as http:
            await check_wake(server, http, box, urls[0])
            async with connected(server) as client:
                await call(client, "destroy_environment", environment_id=box)
            with pytest.raises(httpx2.ConnectError):
                await http.get(urls[0])


async def exposed(client: Client, box: str, port: int) -> str:
    opened = await call(client, "expose_port", environment_id=box, port=port, wait_seconds=60)
    assert opened["listening"]
    assert opened["public_url"].startswith(f"http://{port}-{box}.localhost:")
    return opened["url"]


async def check_every_form(server: Waggle, http: httpx2.AsyncClient, box: str) -> None:
    authority = server.url.removeprefix("http://")
    for port in PLACES:
        base = f"{server.url}/e/{box}/{port}"
        answer = await http.get(f"{base}/")
        assert answer.text == f"localhost:{port} {authority}"
        assert "sandbox" in answer.headers["content-security-policy"]
        own = {"Host": f"{port}-{box}.localhost"}
        assert (await http.get(server.url, headers=own)).text == f"localhost:{port} {own['Host']}"
    base = f"{server.url}/e/{box}/8001"
    answer = await http.post(f"{base}/echo", content=LARGE)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(LARGE).digest()
    assert (await http.get(f"{base}/events")).text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    async with connect(f"ws://{authority}/e/{box}/8001/ws", proxy=None, compression=None) as socket:
        for text in ("hello", "again"):
            await socket.send(text)
            assert await socket.recv() == text


async def check_the_link_of_the_command_line(server: Waggle, http: httpx2.AsyncClient) -> None:
    words = ("port", "box", "80", "--share", "--expires", "2h")
    made = await anyio.to_thread.run_sync(lambda: beside(server, *words))
    assert re.fullmatch(
        r"http://80-[0-9a-f-]{36}\.localhost:\d+/\?waggle_link=\S{51}\n", made.stdout
    )
    assert "Whoever has this link may use the port until 20" in made.stderr
    host, _, query = made.stdout.strip().removeprefix("http://").partition("/")
    answer = await http.get(f"{server.url}/{query}", headers={"Host": host})
    assert answer.text == f"localhost:80 {host}"
    wrong = await http.get(f"{server.url}/{query[:-6]}AAAAAA", headers={"Host": host})
    assert wrong.status_code == 403


async def check_wake(server: Waggle, http: httpx2.AsyncClient, box: str, url: str) -> None:
    """Many connections, of both kinds, wake it once, on the ports that it had."""
    answers: list[httpx2.Response] = []

    async def get(place: str) -> None:
        answers.append(await http.get(place))

    before = len(server.events("environment_resumed"))
    async with anyio.create_task_group() as group:
        for place in (url, f"{server.url}/e/{box}/80/") * 4:
            group.start_soon(get, place)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len(server.events("environment_resumed")) == before + 1
