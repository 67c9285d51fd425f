# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 inside ended TLS, with real clients and a server of the library h2."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.infra.net.tls.h2_peers import Asked, H2Client, H2Site, Reply
from tests.infra.net.tls.secret_lab import HOST, PLACEHOLDER, VALUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio
STARS = b"*" * len(VALUE)
TOKEN = {"authorization": f"Bearer {PLACEHOLDER}"}


def client(lab: SecretLab) -> httpx2.AsyncClient:
    """Return a client in the guest that speaks HTTP/2."""
    return httpx2.AsyncClient(
        http2=True, http1=False, proxy=lab.url, verify=lab.context(), timeout=20
    )


async def echo(asked: Asked) -> Reply:
    """Answer with the authorization that came, split, and the body."""
    value = asked.get(b"authorization") or b""
    pieces = [value[start : start + 3] for start in range(0, len(value), 3)]
    return Reply([(b"x-echo", value)], [*pieces, asked.body])


async def test_a_value_goes_and_comes_back_masked(lab: SecretLab) -> None:
    site = H2Site(echo)
    port = await lab.site(site, "h2")
    async with client(lab) as http:
        got = await http.post(f"https://{HOST}:{port}/a?b", headers=TOKEN, content=b"body")
    assert got.http_version == "HTTP/2"
    assert got.content == b"Bearer " + STARS + b"body"
    assert got.headers["x-echo"].encode() == b"Bearer " + STARS
    (asked,) = site.got
    assert asked.get(b"authorization") == b"Bearer " + VALUE
    assert asked.get(b":path") == b"/a?b"
    assert asked.get(b"accept-encoding") == b"identity"


async def test_messages_within_a_body_are_not_compressed(lab: SecretLab) -> None:
    """Each on its own, as gRPC and Connect do it."""

    async def compressed(asked: Asked) -> Reply:
        return Reply([(b"grpc-encoding", asked.get(b"x-reply") or b"")], [b"\x01packed"])

    site = H2Site(compressed)
    port = await lab.site(site, "h2")
    async with client(lab) as http:
        url, wish = f"https://{HOST}:{port}/", {"grpc-accept-encoding": "gzip"}
        got = await http.post(url, headers=TOKEN | wish | {"x-reply": "gzip"})
        assert (got.status_code, got.headers["x-waggle-error"]) == (502, "content-encoding")
        got = await http.post(url, headers=TOKEN | wish | {"x-reply": "identity"})
        assert got.content == b"\x01packed"
    assert all(asked.get(b"grpc-accept-encoding") is None for asked in site.got)


async def test_many_streams_share_a_connection(lab: SecretLab) -> None:
    body = os.urandom(300_000)

    async def large(asked: Asked) -> Reply:
        return Reply([], [body, asked.body])

    site = H2Site(large, streams=10)
    port = await lab.site(site, "h2")
    async with client(lab) as http:
        await http.post(f"https://{HOST}:{port}/first", content=b"")
        asking = (
            http.post(f"https://{HOST}:{port}/{n}", headers=TOKEN, content=body) for n in range(30)
        )
        for got in await asyncio.gather(*asking):
            assert got.content == body + body
    assert site.connections == 1


async def test_a_placeholder_in_a_body_ends_its_stream_only(lab: SecretLab) -> None:
    site = H2Site(echo)
    port = await lab.site(site, "h2")
    async with client(lab) as http:
        url = f"https://{HOST}:{port}/"
        refused = await http.post(url, content=b"x" * 70_000 + PLACEHOLDER.encode())
        passed = await http.get(url, headers=TOKEN)
    assert refused.status_code == 403
    assert refused.headers["x-waggle-denied"] == "secret-place"
    assert "is in the body of the request" in refused.text
    assert passed.content == b"Bearer " + STARS
    assert site.connections == 1
    assert lab.denials == ["secret-place"]


async def test_headers_only_and_informational_answers_pass(lab: SecretLab) -> None:
    async def nothing(asked: Asked) -> Reply:
        status = 204 if asked.get(b":path") == b"/204" else 200
        return Reply([(b"content-length", b"7")] if status == 200 else [], status=status)

    port = await lab.site(H2Site(nothing), "h2")
    async with client(lab) as http:
        assert (await http.get(f"https://{HOST}:{port}/204")).status_code == 204
        assert (await http.head(f"https://{HOST}:{port}/")).headers["content-length"] == "7"


async def test_trailers_pass_both_ways_as_grpc_needs(lab: SecretLab) -> None:
    async def grpc(asked: Asked) -> Reply:
        trailers = [(b"grpc-status", b"0"), (b"x-value", VALUE)]
        return Reply([(b"content-type", b"application/grpc")], [asked.body], trailers)

    site = H2Site(grpc)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        stream = http.request(
            [(b"te", b"trailers"), (b"authorization", PLACEHOLDER.encode())], method=b"POST"
        )
        http.peer.http.send_data(stream, b"message")
        http.peer.http.send_headers(stream, [(b"x-checksum", b"1")], end_stream=True)
        got = await http.answer(stream)
    assert got.body == b"message"
    assert got.trailers == [(b"grpc-status", b"0"), (b"x-value", STARS)]
    assert site.got[0].trailers == [(b"x-checksum", b"1")]
    assert site.got[0].get(b"te") == b"trailers"


@pytest.mark.parametrize(
    "headers, status, code",
    [
        ([(b":authority", b"other.example.test")], b"421", b"other-host"),
        ([(b":scheme", b"http")], b"400", b"request-target"),
        ([(b":method", b"CONNECT"), (b":protocol", b"websocket")], b"501", b"connect-inside"),
        ([(b"x", PLACEHOLDER[:-1].encode())], b"403", b"secret-unknown"),
        ([(b":path", b"/" + PLACEHOLDER.encode())], b"403", b"secret-place"),
    ],
)
async def test_requests_for_elsewhere_are_refused(
    lab: SecretLab, headers: list[tuple[bytes, bytes]], status: bytes, code: bytes
) -> None:
    site = H2Site(echo)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        got = await http.answer(http.request(headers, end=True))
        assert dict(got.headers)[b":status"] == status
        assert dict(got.headers)[b"x-waggle-denied"] == code
        again = await http.answer(http.request([], end=True))
        assert dict(again.headers)[b":status"] == b"200"
    assert lab.denials == [code.decode()]
    assert len(site.got) == 1


async def test_a_placeholder_in_trailers_is_refused(lab: SecretLab) -> None:
    port = await lab.site(H2Site(echo), "h2")
    async with H2Client(lab, port) as http:
        stream = http.request([], method=b"POST")
        http.peer.http.send_headers(stream, [(b"x", PLACEHOLDER.encode())], end_stream=True)
        got = await http.answer(stream)
    assert dict(got.headers)[b"x-waggle-denied"] == b"secret-place"


async def test_a_reset_reaches_the_server(lab: SecretLab) -> None:
    site = H2Site(echo)
    port = await lab.site(site, "h2")
    async with H2Client(lab, port) as http:
        stream = http.request([], method=b"POST")
        http.peer.http.send_data(stream, b"begun")
        http.peer.flush()
        while not site.got or not site.got[0].body:  # noqa: ASYNC110 (the site has no event)
            await asyncio.sleep(0)
        http.peer.http.reset_stream(stream, 8)
        http.peer.flush()
        while site.got[0].reset is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert site.got[0].reset == 8


async def test_a_server_that_leaves_finishes_and_the_guest_connects_anew(lab: SecretLab) -> None:
    site = H2Site(echo, leave_after=2)
    port = await lab.site(site, "h2")
    async with client(lab) as http:
        for number in range(4):
            got = await http.get(f"https://{HOST}:{port}/{number}", headers=TOKEN)
            assert got.content == b"Bearer " + STARS
    assert site.connections == 2


async def test_a_guest_that_opens_no_window_stops_the_server_not_the_proxy(
    lab: SecretLab,
) -> None:
    sent = 0

    async def endless(_: Asked) -> Reply:
        return Reply([], _Counted())

    class _Counted(list[bytes]):
        def __bool__(self) -> bool:
            return True

        def __iter__(self) -> Iterator[bytes]:
            nonlocal sent
            while sent < 100 << 20:
                sent += 65536
                yield b"x" * 65536

    port = await lab.site(H2Site(endless), "h2")
    async with H2Client(lab, port) as http:
        stream = http.request([], end=True)
        http.peer.flush()
        before = -1
        while before != sent or not sent:
            before = sent
            for _ in range(2000):
                await asyncio.sleep(0)
        assert sent < 4 << 20
        http.peer.http.reset_stream(stream)
        http.peer.flush()
