# SPDX-License-Identifier: Apache-2.0
"""The proxy with the operator's own file: a secret that is rotated, taken away, or fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.tls.secret_lab import HOST, PLACEHOLDER, SecretLab, Site, answer, request

from waggle.domain.access import LOCAL
from waggle.domain.secrets import Granted
from waggle.infra.access.secret_values import SecretVault

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def test_the_operator_changes_the_file_while_a_guest_uses_it(tmp_path: Path) -> None:
    path, now = tmp_path / "secrets.toml", 0.0

    def write(*lines: str) -> None:
        nonlocal now
        text = ["[secrets.github]", "variable = 'GITHUB_TOKEN'", f"hosts = ['{HOST}']", *lines]
        path.write_text("\n".join(text))
        path.chmod(0o600)
        now += 2

    write("value = 'the-first-value'")
    vault = SecretVault(path, monotonic=lambda: now)
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        lab = SecretLab(stack)
        lab.granted = Granted(LOCAL, {"github": PLACEHOLDER}, vault)
        await lab.start()
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
        reader, writer = await lab.tunnel(port)  # nothing covers the host any more
        writer.write(asked)
        assert b"X-Waggle-Denied: secret-gone" in await reader.read()
        assert len(site.got) == 2
