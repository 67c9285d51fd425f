# SPDX-License-Identifier: Apache-2.0
"""Real clients through ended TLS: curl, git, httpx2 and websockets, with a token they never had."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import httpx2
import pytest
import websockets
from tests.infra.net.tls.h2_peers import Asked, H2Site, Reply
from tests.infra.net.tls.secret_lab import (
    HOST,
    OTHER,
    PLACEHOLDER,
    VALUE,
    Site,
    answer,
)
from tests.support.forge import Forge
from tests.support.programs import program
from websockets.asyncio.server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio
STARS = b"*" * len(VALUE)


async def run(*argv: str, env: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Run a program; return its exit status and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output


def bundle(lab: SecretLab, directory: Path) -> str:
    path = directory / "authority.pem"
    path.write_bytes(lab.own.certificate)
    return str(path)


async def test_curl_over_both_protocols(lab: SecretLab, tmp_path: Path) -> None:
    async def echo(asked: Asked) -> Reply:
        return Reply([], [asked.get(b"authorization") or b""])

    http2 = await lab.site(H2Site(echo), "h2", "http/1.1")
    http1 = await lab.site(Site(answer(b"Bearer " + VALUE)))
    for port, version in ((http2, b"2"), (http1, b"1.1")):
        status, output = await run(
            *(program("curl"), "--silent", "--show-error", "--proxy", lab.url),
            *("--cacert", bundle(lab, tmp_path), "--write-out", " %{http_version}"),
            *("--header", f"Authorization: Bearer {PLACEHOLDER}", f"https://{HOST}:{port}/"),
        )
        assert (status, output) == (0, b"Bearer " + STARS + b" " + version)


async def test_curl_uploads_and_reads_the_refusal(lab: SecretLab, tmp_path: Path) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    body = tmp_path / "body"
    body.write_bytes(os.urandom(1 << 20) + PLACEHOLDER.encode() + os.urandom(1 << 20))
    _, output = await run(
        *(program("curl"), "--silent", "--show-error", "--proxy", lab.url),
        *("--cacert", bundle(lab, tmp_path), "--data-binary", f"@{body}"),
        f"https://{HOST}:{port}/",
    )
    assert b"secret 'github' is in the body of the request" in output


async def test_git_clones_and_pushes_with_a_token_that_it_never_had(
    lab: SecretLab, tmp_path: Path
) -> None:
    origin, git = tmp_path / "served" / "origin.git", program("git")
    origin.parent.mkdir()
    await run(git, "init", "--bare", "--initial-branch=main", str(origin))
    await run(git, "-C", str(origin), "config", "http.receivepack", "true")
    port = await lab.site(Forge(origin.parent, VALUE))
    elsewhere = await lab.site(Forge(origin.parent, VALUE), host=OTHER)
    env = {
        "HTTPS_PROXY": lab.url,
        "GIT_SSL_CAINFO": bundle(lab, tmp_path),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "HOME": str(tmp_path),
    }
    url = f"https://x-access-token:{PLACEHOLDER}@{HOST}:{port}/origin.git"
    clone = str(tmp_path / "clone")
    status, output = await run(git, "clone", url, clone, env=env)
    assert status == 0, output
    (tmp_path / "clone" / "file").write_bytes(os.urandom(300_000))
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    await run(git, "-C", clone, "add", "file", env=env)
    await run(git, "-C", clone, *author, "commit", "--message=one", env=env)
    status, output = await run(git, "-C", clone, "push", "origin", "HEAD:main", env=env)
    assert status == 0, output
    other = str(tmp_path / "other")
    status, output = await run(git, "clone", url, other, env=env)
    assert status == 0, output
    assert (tmp_path / "other" / "file").stat().st_size == 300_000
    assert VALUE not in (tmp_path / "other" / ".git" / "config").read_bytes()

    both = tmp_path / "both.pem"
    both.write_bytes(lab.own.certificate + lab.authority.bundle)
    away = url.replace(f"{HOST}:{port}", f"{OTHER}:{elsewhere}")
    status, output = await run(
        git, "-C", clone, "push", away, "HEAD:main", env={**env, "GIT_SSL_CAINFO": str(both)}
    )
    assert status != 0
    assert b"Authentication failed" in output


async def test_httpx_keeps_its_connection(lab: SecretLab) -> None:
    site = Site(answer(VALUE, close=False), requests=3)
    port = await lab.site(site)
    async with httpx2.AsyncClient(proxy=lab.url, verify=lab.context()) as http:
        for _ in range(3):
            got = await http.get(f"https://{HOST}:{port}/", headers={"X-Token": PLACEHOLDER})
            assert got.content == STARS
    assert site.heads.count(VALUE) == 3


async def test_websockets_pass_and_are_masked(lab: SecretLab) -> None:
    tokens: list[str | None] = []

    async def chat(socket: websockets.ServerConnection) -> None:
        assert socket.request is not None
        tokens.append(socket.request.headers.get("Authorization"))
        assert socket.protocol.extensions == []
        async for message in socket:
            await socket.send(message)
        await socket.close()

    async with serve(chat, "127.0.0.1", 0, ssl=lab.authority.server(HOST)) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with websockets.connect(
            f"wss://{HOST}:{port}/chat",
            ssl=lab.context(),
            proxy=lab.url,
            additional_headers={"Authorization": f"Bearer {PLACEHOLDER}"},
        ) as socket:
            for message in ("hello", b"\0\1" * 70_000, f"it is {VALUE.decode()}!"):
                await socket.send(message)
            assert await socket.recv() == "hello"
            assert await socket.recv() == b"\0\1" * 70_000
            assert await socket.recv() == f"it is {STARS.decode()}!"
            await socket.send(PLACEHOLDER)
            assert await socket.recv() == PLACEHOLDER  # nothing is replaced in a websocket
    assert tokens == [f"Bearer {VALUE.decode()}"]
