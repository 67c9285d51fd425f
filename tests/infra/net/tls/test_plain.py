# SPDX-License-Identifier: Apache-2.0
"""Placeholders outside of ended TLS: refused and recorded, never replaced."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.tls.secret_lab import HOST, OTHER, PLACEHOLDER, Site, answer

if TYPE_CHECKING:
    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio
PACKED = base64.b64encode(f"x:{PLACEHOLDER}".encode()).decode()


async def ask_proxy(lab: SecretLab, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(data)
    got = await reader.read()
    writer.close()
    return got


@pytest.mark.parametrize(
    "host, code, said",
    [
        (OTHER, b"secret-host", b"the secret may go only to api.example.test, *.git.test, over"),
        (HOST, b"secret-plain", b"Use https:// and one of its hosts: api.example.test, *.git"),
    ],
)
@pytest.mark.parametrize(
    "path, header",
    [
        (f"?k={PLACEHOLDER}", ""),
        ("", f"Authorization: Bearer {PLACEHOLDER}\r\n"),
        ("", f"Authorization: Basic {PACKED}\r\n"),
        ("", f"X-{PLACEHOLDER}: 1\r\n"),
    ],
)
async def test_in_a_plain_request_it_is_refused(
    lab: SecretLab, host: str, code: bytes, said: bytes, path: str, header: str
) -> None:
    site = Site(answer(b""))
    port = await lab.listen(site)
    url = f"http://{host}:{port}/{path}"
    got = await ask_proxy(lab, f"GET {url} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"X-Waggle-Denied: " + code in got
    assert said in got
    assert (lab.denials, site.got) == ([code.decode()], [])


async def test_in_a_plain_body_it_is_refused(lab: SecretLab) -> None:
    port = await lab.listen(Site(answer(b"")))
    body = b"a" * 99 + PLACEHOLDER.encode()
    head = f"PUT http://{OTHER}:{port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    got = await ask_proxy(lab, head.encode() + body)
    assert b"X-Waggle-Denied: secret-host" in got


async def test_plain_requests_without_one_pass(lab: SecretLab) -> None:
    port = await lab.listen(Site(answer(b"fine")))
    head = f"GET http://{OTHER}:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = await ask_proxy(lab, head.encode())
    assert got.endswith(b"fine")


@pytest.mark.parametrize("host", [OTHER, HOST])
@pytest.mark.parametrize("size", [1, 33, 1000])
async def test_in_a_tunnel_without_tls_it_is_refused(lab: SecretLab, host: str, size: int) -> None:
    site = Site(answer(b""))
    port = await lab.listen(site)
    reader, writer = await lab.tunnel(port, host)
    asked = f"GET / HTTP/1.1\r\nHost: {host}\r\nX: {PLACEHOLDER}\r\n\r\n".encode()
    head, rest = asked.split(b"\r\n", 1)
    writer.write(head + b"\r\n")
    for start in range(0, len(rest), size):
        writer.write(rest[start : start + size])
        await asyncio.sleep(0)
    got = await reader.read()
    assert got.startswith(b"HTTP/1.1 403 ")
    assert PLACEHOLDER.encode() not in site.heads
    assert lab.denials == ["secret-plain" if host == HOST else "secret-host"]


async def test_a_tunnel_that_is_not_http_is_closed(lab: SecretLab) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)

    port = await lab.listen(echo)
    reader, writer = await lab.tunnel(port, OTHER)
    writer.write(b"\0\0hello")
    assert await reader.readexactly(7) == b"\0\0hello"
    writer.write(PLACEHOLDER.encode())
    assert await reader.read() == b""
    assert lab.denials == ["secret-host"]
