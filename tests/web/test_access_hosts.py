# SPDX-License-Identifier: Apache-2.0
"""The Host and Origin headers that are served, on loopback and elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.server import INITIALIZE, Setup, raw, request, serving

from waggle.web.access import HostPolicy, host_policy

LOCAL = host_policy("127.0.0.1", ["waggle.example:443"])
ANYWHERE = host_policy("0.0.0.0", ["waggle.example"])  # noqa: S104 - only a policy


def served(policy: HostPolicy, host: str | None, origin: str | None = None) -> int:
    refusal = policy.refusal(host, origin)
    return 200 if refusal is None else refusal[0]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "127.0.0.1", "localhost:8080", "LOCALHOST", "localhost.", "[::1]:8080"],
)
def test_loopback_names_are_always_served(host: str) -> None:
    assert served(LOCAL, host) == 200
    assert served(ANYWHERE, host) == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "user@localhost",
        "localhost:8080@evil.example",
        "localhost/evil",
        "localhost:99999",
        "[::1",
        "local host\\n",
        "127.1",
    ],
)
def test_a_name_that_an_attacker_may_own_is_refused(host: str | None) -> None:
    assert served(LOCAL, host) == 421
    assert served(ANYWHERE, host) == 421


def test_addresses_are_served_only_where_the_server_listens_on_one() -> None:
    for host in ("192.0.2.7:8080", "[2001:db8::7]:8080", "0.0.0.0:8080"):
        assert served(LOCAL, host) == 421
        assert served(ANYWHERE, host) == 200


def test_names_that_the_operator_allows_are_served() -> None:
    for policy in (LOCAL, ANYWHERE):
        assert served(policy, "waggle.example") == 200
        assert served(policy, "Waggle.Example:443") == 200
        assert served(policy, "www.waggle.example") == 421
    assert served(host_policy("box.lan"), "box.lan:8080") == 200
    known = host_policy("127.0.0.1", ["agents.example:*", "[2001:db8::7]:8080"])
    assert served(known, "agents.example:9") == served(known, "[2001:db8::7]") == 200


@pytest.mark.parametrize(
    "origin, status",
    [
        (None, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("https://waggle.example", 200),
        ("https://evil.example", 403),
        ("http://evil.example:8080", 403),
        ("http://192.0.2.7", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
        ("javascript://localhost", 403),
        ("http://localhost@evil.example", 403),
        ("http://localhost/evil", 403),
        ("http://localhost:x", 403),
    ],
)
def test_pages_of_other_origins_are_not_served(origin: str | None, status: int) -> None:
    assert served(LOCAL, "localhost:8080", origin) == status
    assert served(ANYWHERE, "localhost:8080", origin) == status


def test_a_page_of_the_servers_own_address_is_served() -> None:
    assert served(ANYWHERE, "192.0.2.7:8080", "http://192.0.2.7:8080") == 200
    assert served(ANYWHERE, "192.0.2.7:8080", "http://192.0.2.7:8081") == 403


@given(st.text(max_size=40), st.none() | st.text(max_size=40))
def test_no_header_breaks_the_check(host: str, origin: str | None) -> None:
    assert served(LOCAL, host, origin) in (200, 403, 421)


@pytest.mark.anyio
async def test_every_path_is_checked_over_http() -> None:
    async with serving(Setup(names=("waggle.example",))) as rig, raw(rig) as http:
        for path in ("/healthz", "/readyz", "/nope"):
            foreign = await http.get(path, headers={"Host": "evil.example"})
            assert foreign.status_code == 421
            assert "127.0.0.1" in foreign.json()["error"]
        for message in (INITIALIZE, request("tools/list")):
            foreign = await http.post("/mcp", json=message, headers={"Host": "evil.example:80"})
            assert foreign.status_code == 421
            page = await http.post("/mcp", json=message, headers={"Origin": "http://evil.example"})
            assert page.status_code == 403
            known = await http.post("/mcp", json=message, headers={"Host": "waggle.example"})
            assert known.status_code == 200


PAGE = "https://agents.example"


@pytest.mark.anyio
async def test_a_page_of_an_allowed_origin_may_call() -> None:
    """Like the MCP Inspector from a page: a preflight, then calls with the session's header."""
    setup = Setup(names=("agents.example",), origins=(PAGE,))
    requested = "authorization, content-type, mcp-protocol-version, mcp-session-id"
    async with serving(setup) as rig, raw(rig) as http:
        for method in ("POST", "GET", "DELETE"):
            asking = {
                "Origin": PAGE,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": requested,
            }
            preflight = await http.options("/mcp", headers=asking)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == PAGE
            assert preflight.headers["access-control-allow-headers"] == requested
            assert method in preflight.headers["access-control-allow-methods"]
        opened = await http.post("/mcp", json=INITIALIZE, headers={"Origin": PAGE})
        assert opened.headers["access-control-allow-origin"] == PAGE
        assert "Mcp-Session-Id" in opened.headers["access-control-expose-headers"]
        lost = {"Origin": PAGE, "Mcp-Session-Id": "lost"}
        gone = await http.post("/mcp", json=request("tools/list"), headers=lost)
        assert (gone.status_code, gone.headers["access-control-allow-origin"]) == (404, PAGE)


@pytest.mark.anyio
@pytest.mark.parametrize("origins", [(), (PAGE,)])
@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://agents.example", "https://evil.example", "null"]
)
async def test_pages_of_other_origins_get_no_cors_headers(
    origins: tuple[str, ...], origin: str
) -> None:
    setup = Setup(names=("agents.example",), origins=origins)
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with serving(setup) as rig, raw(rig) as http:
        preflight = await http.options("/mcp", headers=asking)
        called = await http.post("/mcp", json=INITIALIZE, headers={"Origin": origin})
        assert preflight.status_code >= 400
        for answer in (preflight, called):
            assert "access-control-allow-origin" not in answer.headers
