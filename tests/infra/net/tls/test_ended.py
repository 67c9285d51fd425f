# SPDX-License-Identifier: Apache-2.0
"""A whole proxy with secrets: values reach the server in their places, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.tls.secret_lab import (
    HERE,
    HOST,
    OTHER,
    PLACEHOLDER,
    QUERY_PLACEHOLDER,
    VALUE,
    Site,
    answer,
    github,
    request,
)

if TYPE_CHECKING:
    from tests.infra.net.tls.secret_lab import SecretLab

pytestmark = pytest.mark.anyio


async def test_a_header_gets_the_value(lab: SecretLab) -> None:
    site = Site(answer(b"hello"))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, f"Authorization: Bearer {PLACEHOLDER}"))
    assert got.endswith(b"\r\n\r\nhello")
    assert b"Authorization: Bearer " + VALUE + b"\r\n" in site.heads
    assert PLACEHOLDER.encode() not in site.heads
    assert lab.used == [("github", HOST)]
    assert lab.denials == []


async def test_basic_credentials_get_the_value(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    packed = base64.b64encode(f"x-access-token:{PLACEHOLDER}".encode()).decode()
    await lab.ask(port, request(port, f"Authorization: basic {packed}"))
    sent = base64.b64encode(b"x-access-token:" + VALUE)
    assert b"Authorization: basic " + sent + b"\r\n" in site.heads


async def test_a_host_with_a_dot_at_its_end_is_the_same(lab: SecretLab) -> None:
    site = Site(answer(b"hello"))
    port = await lab.site(site)
    lab.names[f"{HOST}."] = HERE
    reader, writer = await lab.connect(port, host=f"{HOST.upper()}.", name=HOST)
    writer.write(request(port, f"Authorization: Bearer {PLACEHOLDER}"))
    assert (await reader.read()).endswith(b"hello")
    assert b"Authorization: Bearer " + VALUE in site.heads


async def test_a_query_gets_the_value_escaped(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    await lab.ask(port, request(port, path=f"/map?x=1&key={QUERY_PLACEHOLDER}&y=2"))
    assert b"GET /map?x=1&key=maps%20key%26with%3Dsigns%25&y=2 HTTP/1.1" in site.heads


async def test_requests_without_placeholders_pass_on_one_connection(lab: SecretLab) -> None:
    site = Site(answer(b"one", close=False), requests=3)
    port = await lab.site(site)
    reader, writer = await lab.connect(port)
    for number in range(3):
        writer.write(request(port, path=f"/{number}"))
        assert await reader.readuntil(b"one")
    assert b"GET /2 HTTP/1.1" in site.heads
    assert lab.used == []


async def test_a_rotated_value_is_in_the_next_request(lab: SecretLab) -> None:
    site = Site(answer(VALUE, close=False), requests=2)
    port = await lab.site(site)
    reader, writer = await lab.connect(port)
    asked = request(port, f"Authorization: token {PLACEHOLDER}")
    writer.write(asked)
    await reader.readuntil(b"*" * len(VALUE))
    lab.vault.values["github"] = b"the-new-value"
    writer.write(asked)
    await reader.readuntil(b"*" * len(VALUE))  # the old one is masked, too
    assert b"Authorization: token the-new-value\r\n" in site.heads


@pytest.mark.parametrize(
    "headers, path, code",
    [
        ([f"X-{PLACEHOLDER}: 1"], "/", "secret-place"),
        ([f"X: {QUERY_PLACEHOLDER}"], "/", "secret-place"),
        ([], f"/?token={PLACEHOLDER}", "secret-place"),
        ([], f"/{PLACEHOLDER}", "secret-place"),
        ([f"X: {PLACEHOLDER[:-4]}"], "/", "secret-unknown"),
        ([f"X: {PLACEHOLDER}0"], "/", "secret-unknown"),
        ([f"X: waggle-other-{'0' * 32}"], "/", "secret-unknown"),
        ([f"X: {PLACEHOLDER}"] * 17, "/", "secret-count"),
    ],
)
async def test_elsewhere_in_a_head_it_is_refused(
    lab: SecretLab, headers: list[str], path: str, code: str
) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, *headers, path=path))
    assert got.startswith(b"HTTP/1.1 403 ")
    assert f"X-Waggle-Denied: {code}\r\n".encode() in got
    assert lab.denials == [code]
    assert site.got == []


async def test_a_named_header_is_the_only_place(lab: SecretLab) -> None:
    lab.vault.secrets["github"] = github(["header:x-api-key"])
    site = Site(answer(b""))
    port = await lab.site(site)
    got = await lab.ask(port, request(port, f"Authorization: Bearer {PLACEHOLDER}"))
    assert b"Put $GITHUB_TOKEN into the header x-api-key." in got
    await lab.ask(port, request(port, f"X-API-Key: {PLACEHOLDER}"))
    assert b"X-API-Key: " + VALUE in site.heads


@pytest.mark.parametrize("size", [1, 7, 100, 16384])
async def test_in_a_body_it_is_refused_however_it_is_split(lab: SecretLab, size: int) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    reader, writer = await lab.connect(port)
    body = b"x" * 50 + PLACEHOLDER.encode() + b"y" * 20000
    writer.write(request(port, f"Content-Length: {len(body)}", method="POST"))
    for start in range(0, 150, size):
        with contextlib.suppress(ConnectionError):  # it is answered before it is all there
            writer.write(body[start : start + size])
            await writer.drain()
        await asyncio.sleep(0)
    got = await reader.readuntil(b".\n")
    assert b"X-Waggle-Denied: secret-place\r\n" in got
    assert b"is in the body of the request" in got
    assert lab.denials == ["secret-place"]


async def test_in_chunks_it_is_refused(lab: SecretLab) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    port = await lab.site(silent)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in PLACEHOLDER.encode())
    asked = request(port, "Transfer-Encoding: chunked", method="POST") + chunks + b"0\r\n\r\n"
    assert b"secret-place" in await lab.ask(port, asked)


async def test_ten_thousand_in_a_body_are_one_refusal(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    body = PLACEHOLDER.encode() * 10_000
    reader, writer = await lab.connect(port)
    writer.write(request(port, f"Content-Length: {len(body)}", method="PUT") + body)
    assert await reader.readuntil(b"X-Waggle-Denied: secret-place\r\n")
    assert lab.denials == ["secret-place"]


async def test_a_covered_host_of_another_secret_gets_nothing(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site, host="a.git.test")
    reader, writer = await lab.connect(port, host="a.git.test")
    asked = request(port, path=f"/?k={QUERY_PLACEHOLDER}").replace(HOST.encode(), b"a.git.test")
    writer.write(asked)
    got = await reader.read()
    assert b"X-Waggle-Denied: secret-host\r\n" in got
    assert f"the secret may go only to {HOST}, over https".encode() in got
    assert site.got == []


async def test_a_secret_that_the_operator_removed_is_gone(lab: SecretLab) -> None:
    port = await lab.site(Site(answer(b"")))
    del lab.vault.secrets["github"]  # the host is still one of the other secret's
    got = await lab.ask(port, request(port, f"Authorization: {PLACEHOLDER}"))
    assert b"X-Waggle-Denied: secret-gone\r\n" in got


async def test_a_value_that_cannot_be_had_is_reported(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    lab.vault.error = "the command of secret 'github' failed with exit status 3"
    got = await lab.ask(port, request(port, f"Authorization: {PLACEHOLDER}"))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert b"X-Waggle-Error: secret-unavailable\r\n" in got
    assert b"failed with exit status 3; nothing was sent. Tell the operator." in got
    assert site.got == []


async def test_a_rule_may_judge_method_and_path(lab: SecretLab) -> None:
    site = Site(answer(b""))
    port = await lab.site(site)
    lab.rules("public, deny DELETE HOST/v1")
    got = await lab.ask(port, request(port, path="/v1/?q=1", method="DELETE"))
    assert b"X-Waggle-Denied: rule\r\n" in got
    assert (lab.denials, site.got) == (["rule"], [])
    await lab.ask(port, request(port, path="/v1/?q=1"))
    assert site.heads.startswith(b"GET /v1/?q=1 ")


@pytest.mark.parametrize(
    "rules, code",
    [
        (f"GET HOST:PORT/v1/, GET {HERE}:PORT/v1/", "no-rule"),
        (f"GET {HERE}:PORT/v1/, deny 10.0.0.0/8", "no-rule"),
        ("ask, GET HOST:PORT/v1/", "ask"),  # the connection needed no question
    ],
)
async def test_requests_are_judged_as_connections_are(
    lab: SecretLab, rules: str, code: str
) -> None:
    site = Site(answer(b"fine"))
    port = await lab.site(site)
    lab.rules(rules.replace("PORT", str(port)))
    assert b"fine" in await lab.ask(port, request(port, path="/v1/x"))
    got = await lab.ask(port, request(port, path="/v1/x", method="POST"))
    assert f"X-Waggle-Denied: {code}\r\n".encode() in got
    assert b"POST" not in site.heads


async def test_a_header_does_not_make_another_request_of_one_that_is_allowed(
    lab: SecretLab,
) -> None:
    site = Site(answer(b"fine"))
    port = await lab.site(site)
    lab.rules(f"POST HOST:{port}/v1/")
    override = "X_HTTP_Method-Override: DELETE"
    got = await lab.ask(port, request(port, override, path="/v1/x", method="POST"))
    assert b"X-Waggle-Denied: no-rule\r\n" in got
    lab.rules(f"HOST:{port}")
    assert b"fine" in await lab.ask(port, request(port, override, path="/v1/x", method="POST"))


async def test_rules_about_requests_let_nothing_pass_that_is_not_seen(lab: SecretLab) -> None:
    """A tunnel is made since requests inside its TLS are judged, and then there is no TLS."""
    site = Site(answer(b"secret"))
    port = await lab.listen(site)
    lab.rules(f"GET HOST:{port}/v1/")
    reader, writer = await lab.tunnel(port)
    writer.write(request(port, method="DELETE"))
    assert await reader.read() == b""
    assert (site.got, lab.denials) == ([], ["hidden"])
    lab.rules(f"HOST:{port}")
    reader, writer = await lab.tunnel(port)
    writer.write(request(port, method="DELETE"))
    assert (await reader.read()).endswith(b"secret")


async def test_other_hosts_are_not_ended(lab: SecretLab) -> None:
    site = Site(answer(b"untouched"))
    port = await lab.site(site, host=OTHER)
    reader, writer = await lab.tunnel(port, OTHER)
    context = lab.context()
    context.load_verify_locations(cadata=lab.authority.bundle.decode())
    await writer.start_tls(context, server_hostname=OTHER)
    writer.write(request(port, f"Authorization: Bearer {PLACEHOLDER}"))
    assert (await reader.read()).endswith(b"untouched")
    assert PLACEHOLDER.encode() in site.heads
