# SPDX-License-Identifier: Apache-2.0
"""The proxy with the operator's own file: a secret that is rotated, taken away, or fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.tls.secret_lab import (
    HOST,
    OTHER,
    PLACEHOLDER,
    SecretLab,
    Site,
    answer,
    request,
)

from waggle.domain.access import LOCAL
from waggle.domain.secrets import Granted
from waggle.infra.access.secret_values import SecretVault
from waggle.infra.net.tls.authority import LIFETIME, EnvironmentAuthority

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def operated(path: Path) -> AsyncGenerator[tuple[SecretLab, Callable[..., None]]]:
    """A lab with the secret `github` in a file of the operator, and what writes lines of it anew.

    Its hosts are written with the lines unless these say them; without lines, the file is empty.
    """
    now = 0.0

    def write(*lines: str) -> None:
        nonlocal now
        usual = ["[secrets.github]", "variable = 'GITHUB_TOKEN'", f"hosts = ['{HOST}']"]
        has_hosts = any(line.startswith("hosts") for line in lines)
        path.write_text("\n".join([*usual[: 2 if has_hosts else 3], *lines] if lines else []))
        path.chmod(0o600)
        now += 2

    write("value = 'the-first-value'")
    vault = SecretVault(path, monotonic=lambda: now)
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        lab.granted = Granted(LOCAL, {"github": PLACEHOLDER}, vault)
        await lab.start()
        yield lab, write


async def test_the_operator_changes_the_file_while_a_guest_uses_it(tmp_path: Path) -> None:
    async with operated(tmp_path / "secrets.toml") as (lab, write):
        site = Site(answer(b"the-first-value the-second-value"))
        port = await lab.site(site)
        asked = request(port, f"Authorization: Bearer {PLACEHOLDER}")

        assert (await lab.ask(port, asked)).endswith(b"*************** the-second-value")
        write("value = 'the-second-value'")
        assert (await lab.ask(port, asked)).endswith(b"*************** ****************")
        assert b"Bearer the-second-value\r\n" in site.got[1][0]

        write(f"command = {json.dumps(['sh', '-c', 'echo the-third-value; exit 5'])}")
        got = await lab.ask(port, asked)
        assert got.startswith(b"HTTP/1.1 502 ")
        assert b"the command of secret 'github' failed with exit status 5" in got
        assert b"third" not in got

        write("value = 'the-fourth-value'", "owners = ['ann']")
        reader, writer = await lab.tunnel(port)
        writer.write(asked)
        assert b"X-Waggle-Denied: secret-gone" in await reader.read()
        assert len(site.got) == 2


LOST = {
    "owners": ("value = 'the-first-value'", "owners = ['ann']"),
    "hosts": ("value = 'the-first-value'", f"hosts = ['{OTHER}']"),
    "removed": None,
}


@pytest.mark.parametrize("how", LOST)
async def test_a_placeholder_of_a_secret_that_is_gone_does_not_reach_its_hosts(
    tmp_path: Path, how: str
) -> None:
    async with operated(tmp_path / "secrets.toml") as (lab, write):
        site = Site(answer(b"the-first-value"))
        port = await lab.site(site)
        await lab.ask(port, request(port, f"Authorization: Bearer {PLACEHOLDER}"))
        write(*(LOST[how] or ()))
        got = await lab.ask(port, request(port, f"Authorization: Bearer {PLACEHOLDER}"))
        assert got.startswith(b"HTTP/1.1 403 ")
        code, step = ("secret-host", b"or ask the operator to add the host")
        if how != "hosts":
            code, step = ("secret-gone", b"Ask the operator, or send the request without")
        assert step in got
        assert (lab.denials, len(site.got)) == ([code], 1)
        got = await lab.ask(port, request(port))
        assert got.endswith(b"***************"), "what the host got before does not come back"
        assert PLACEHOLDER.encode() not in site.heads


async def test_an_authority_that_has_expired_is_said_at_connect(tmp_path: Path) -> None:
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        old = datetime.now(UTC) - LIFETIME
        lab.own = EnvironmentAuthority.load(
            EnvironmentAuthority.new("lab", [HOST], now=lambda: old).to_bytes()
        )
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        stack.callback(writer.close)
        writer.write(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
        got = await reader.read()
        assert b"X-Waggle-Denied: tls-expired\r\n" in got
        assert b"have expired; create another environment." in got
        assert lab.denials == ["tls-expired"]
