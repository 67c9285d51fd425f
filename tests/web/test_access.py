# SPDX-License-Identifier: Apache-2.0
"""Authentication over real HTTP: tokens, others' sessions, metadata, and every route's Host."""

from __future__ import annotations

import base64
import io
import tarfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs
from tests.support.issuer import AUDIENCE, Issuer, issuing
from tests.support.owners import ANN, BOB, SCRAPER, Tokens, guarded
from tests.support.server import (
    ERAS,
    INITIALIZE,
    MODERN,
    NO_TLS,
    Rig,
    Setup,
    bearer,
    client,
    created,
    data_of,
    error_of,
    raw,
    request,
    serving,
)

from waggle.infra.access.jwks import Jwks, Pace
from waggle.infra.access.jwt import JwtRules, JwtVerifier
from waggle.infra.access.tokens_file import EitherVerifier
from waggle.web.access import AccessRules, OAuthResource

pytestmark = pytest.mark.anyio

LIST = request("tools/call", {"name": "list_environments", "arguments": {}})
RESOURCE = OAuthResource("https://waggle.test/mcp", "https://issuer.test", "waggle")


async def initialized(http: httpx2.AsyncClient) -> dict[str, str]:
    """Open a session and return its headers."""
    answer = await http.post("/mcp", json=INITIALIZE)
    assert answer.status_code == 200, answer.text
    return {
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25",
    }


BAD_HEADERS = {
    "none": None,
    "empty": "",
    "basic": "Basic YTpi",
    "no token": "Bearer",
    "wrong": "Bearer wgl_nope",
    "two words": f"Bearer {ANN} {ANN}",
    "comma": f"Bearer {ANN},{BOB}",
    "quoted": f'Bearer "{ANN}"',
    "a prefix": f"Bearer {ANN[:-1]}",
    "long": "Bearer " + "x" * 20_000,
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_no_request_passes_without_a_valid_token(name: str) -> None:
    value = BAD_HEADERS[name]
    headers = {} if value is None else {"Authorization": value}
    async with serving(guarded()) as rig, raw(rig) as http:
        for method in ("POST", "GET", "DELETE", "PUT"):
            with capture_logs() as logs:
                answer = await http.request(method, "/mcp", headers=headers)
            assert answer.status_code == 401
            challenge = answer.headers["www-authenticate"]
            assert challenge.startswith('Bearer realm="waggle"')
            assert ("invalid_token" in challenge) == (value is not None)
            for secret in (ANN, ANN[:-1], "x" * 100, "wgl_nope"):
                assert secret not in answer.text + str(answer.headers) + str(logs)


async def test_two_tokens_are_refused() -> None:
    async with serving(guarded()) as rig, raw(rig) as http:
        both = [("Authorization", f"Bearer {ANN}"), ("Authorization", f"Bearer {BOB}")]
        answer = await http.post("/mcp", json=LIST, headers=both)
        assert answer.status_code == 401


async def test_a_token_in_the_query_is_refused() -> None:
    async with serving(guarded()) as rig, raw(rig) as http:
        answer = await http.post(f"/mcp?access_token={ANN}", json=LIST)
        assert answer.status_code == 401


async def test_the_body_of_a_request_without_a_token_is_not_read() -> None:
    """The refusal comes while the body is still to come."""
    async with serving(guarded()) as rig:
        host, _, port = rig.url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            head = f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            await stream.send(f"{head}Content-Length: 1000000\r\n\r\n".encode())
            with anyio.fail_after(5):
                assert b" 401 " in await stream.receive()


async def test_health_needs_no_token() -> None:
    async with serving(guarded()) as rig, raw(rig) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200


def archive() -> str:
    """Return a complete, empty archive in base64."""
    into = io.BytesIO()
    tarfile.open(fileobj=into, mode="w:gz").close()
    return base64.b64encode(into.getvalue()).decode()


@pytest.mark.parametrize("era", ERAS)
async def test_owners_do_not_meet(era: str) -> None:
    """Bob gets the same error, word for word, for ann's environment as for an unknown one."""
    nobody = "00000000-0000-4000-8000-ffffffffffff"
    attempts = {
        "execute": {"code": "print(1)"},
        "run_command": {"command": "id"},
        "wait_job": {"job_id": 1},
        "read_job": {"job_id": 1},
        "kill_job": {"job_id": 1},
        "write_job": {"job_id": 1, "text": "x"},
        "list_jobs": {},
        "install_packages": {"packages": "numpy"},
        "write_file": {"path": "a", "content": "b"},
        "read_file": {"path": "a"},
        "list_files": {},
        "search_files": {"name": "*"},
        "edit_file": {"path": "a", "old_text": "b", "new_text": "c"},
        "upload_files": {"archive": archive()},
        "download_files": {"path": "a"},
        "get_environment": {},
        "extend_environment": {"minutes": 5},
        "set_network": {"allow": "example.org"},
        "restart_environment": {},
        "expose_port": {"port": 8000},
        "unexpose_port": {"port": 8000},
        "pause_environment": {},
        "resume_environment": {},
        "snapshot_environment": {},
        "fork_environment": {"count": 2},
        "keep_fork": {},
        "rollback_environment": {"snapshot_id": nobody},
        "destroy_environment": {},
    }
    async with (
        serving(guarded()) as rig,
        client(rig, era, token=ANN) as ann,
        client(rig, era, token=BOB) as bob,
    ):
        hers = await created(ann)
        await ann.call_tool("execute", {"environment_id": hers, "code": "1"})  # her job 1
        assert data_of(await ann.call_tool("list_jobs", {"environment_id": hers}))["jobs"]
        assert data_of(await bob.call_tool("list_environments", {})).get("count", 0) == 0
        for tool, arguments in attempts.items():
            refused = error_of(await bob.call_tool(tool, {"environment_id": hers, **arguments}))
            unknown = error_of(await bob.call_tool(tool, {"environment_id": nobody, **arguments}))
            assert refused["code"] == "not_found"
            assert str(refused).replace(hers, nobody) == str(unknown)
        assert data_of(await ann.call_tool("list_environments", {}))["count"] == 1
        tools = {tool.name for tool in (await bob.list_tools()).tools}
        takers = tools - {"create_environment", "list_environments", "run_code"}
        takers -= {"list_snapshots", "delete_snapshot"}  # in the next test
        assert takers == attempts.keys(), "a new tool needs an attempt here"
        # Destroyed environments stay hers, too.
        await ann.call_tool("destroy_environment", {"environment_id": hers})
        gone = error_of(await bob.call_tool("destroy_environment", {"environment_id": hers}))
        assert gone["code"] == "not_found"


@pytest.mark.parametrize("era", ERAS)
async def test_no_tool_reaches_another_owners_snapshot(era: str) -> None:
    """To bob, ann's snapshot is unknown, and he cannot roll her environment back to his own."""
    nobody = "00000000-0000-4000-8000-ffffffffffff"
    async with (
        serving(guarded()) as rig,
        client(rig, era, token=ANN) as ann,
        client(rig, era, token=BOB) as bob,
    ):
        hers, his = await created(ann), await created(bob)
        taken = await ann.call_tool("snapshot_environment", {"environment_id": hers})
        snapshot = data_of(taken)["snapshot_id"]
        assert data_of(await bob.call_tool("list_snapshots", {})).get("count", 0) == 0
        attempts: list[tuple[str, dict[str, str]]] = [
            ("delete_snapshot", {"snapshot_id": snapshot}),
            ("create_environment", {"snapshot": snapshot}),
            ("rollback_environment", {"snapshot_id": snapshot, "environment_id": his}),
            ("rollback_environment", {"snapshot_id": snapshot, "environment_id": hers}),
        ]
        for tool, arguments in attempts:
            unknown = {**arguments, next(iter(arguments)): nobody}
            refused = error_of(await bob.call_tool(tool, arguments))
            assert refused["code"] == "not_found"
            never = error_of(await bob.call_tool(tool, unknown))
            assert str(refused).replace(snapshot, nobody) == str(never)
        own = await bob.call_tool("snapshot_environment", {"environment_id": his})
        theirs = {"snapshot_id": data_of(own)["snapshot_id"], "environment_id": hers}
        refused = error_of(await bob.call_tool("rollback_environment", theirs))
        assert refused["code"] == "not_found"
        assert data_of(await ann.call_tool("list_snapshots", {}))["count"] == 1


async def test_a_session_can_be_used_only_by_its_owner() -> None:
    async with serving(guarded()) as rig, raw(rig, ANN) as ann, raw(rig, BOB) as bob:
        session = await initialized(ann)
        assert (await ann.post("/mcp", json=LIST, headers=session)).status_code == 200
        made_up = {**session, "Mcp-Session-Id": "0" * 32}
        for method in ("POST", "GET", "DELETE"):
            body = LIST if method == "POST" else None
            theirs = await bob.request(method, "/mcp", json=body, headers=session)
            unknown = await bob.request(method, "/mcp", json=body, headers=made_up)
            assert theirs.status_code == unknown.status_code == 404
            assert theirs.text == unknown.text
        async with raw(rig) as stranger:
            assert (await stranger.post("/mcp", json=LIST, headers=session)).status_code == 401
        # None of these requests ended it; only its owner's DELETE does, permanently.
        assert (await ann.post("/mcp", json=LIST, headers=session)).status_code == 200
        assert (await ann.delete("/mcp", headers=session)).status_code == 200
        assert (await ann.post("/mcp", json=LIST, headers=session)).status_code == 404


async def test_a_session_continues_with_another_token_of_its_owner() -> None:
    """Another token of the same owner continues the session, because tokens are renewed."""
    tokens = Tokens()
    async with serving(guarded(tokens)) as rig, raw(rig, ANN) as http:
        session = await initialized(http)
        tokens.owners = {BOB: "ann"}
        assert (await http.post("/mcp", json=LIST, headers=session)).status_code == 401
        answer = await http.post("/mcp", json=LIST, headers={**session, **bearer(BOB)})
        assert answer.status_code == 200
        tokens.owners = {BOB: "bob"}
        answer = await http.post("/mcp", json=LIST, headers={**session, **bearer(BOB)})
        assert answer.status_code == 404


async def test_a_modern_request_does_not_act_as_the_sessions_owner() -> None:
    async with serving(guarded()) as rig, raw(rig, ANN) as ann, raw(rig, BOB) as bob:
        async with client(rig, token=ANN) as connected:
            await created(connected)
        session = await initialized(ann)
        meta: dict[str, object] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = request(
            "tools/call", {"name": "list_environments", "arguments": {}, "_meta": meta}
        )
        modern = {
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": "list_environments",
        }
        answer = await bob.post("/mcp", json=message, headers={**session, **modern})
        assert "python-" not in answer.text


async def test_without_authentication_all_clients_are_one_owner() -> None:
    async with serving() as rig, client(rig) as one, client(rig, token=BOB) as other:
        await created(one)
        assert data_of(await other.call_tool("list_environments", {}))["count"] == 1


async def page(sessions: int) -> tuple[bytes, str]:
    return b"sessions %d\n" % sessions, "text/plain; version=0.0.4"


async def test_metrics_need_their_own_token() -> None:
    setup = guarded()
    setup.scrape = page
    async with serving(setup) as rig, raw(rig) as http, client(rig, "legacy", token=ANN):
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/metrics", headers=bearer(ANN))).status_code == 403
        answer = await http.get("/metrics", headers=bearer(SCRAPER))
        assert (answer.status_code, answer.text) == (200, "sessions 1\n")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        refused = await http.post("/mcp", json=LIST, headers=bearer(SCRAPER))
        assert refused.status_code == 403
        assert (await http.post("/metrics", headers=bearer(SCRAPER))).status_code == 405


async def test_metrics_are_open_without_authentication_and_404_if_off() -> None:
    async with serving(Setup(scrape=page)) as rig, raw(rig) as http:
        assert (await http.get("/metrics")).text == "sessions 0\n"
    async with serving() as rig, raw(rig) as http:
        assert (await http.get("/metrics")).status_code == 404


PATHS = ("/mcp", "/healthz", "/readyz", "/metrics", "/.well-known/oauth-protected-resource", "/x")


@pytest.mark.parametrize("path", PATHS)
async def test_every_route_refuses_a_foreign_host_or_origin(path: str) -> None:
    """Not even with a good token: a browser that has one must not lend it to a page."""
    setup = guarded(resource=RESOURCE)
    setup.scrape = page
    async with serving(setup) as rig, raw(rig, ANN) as http:
        for method in ("GET", "POST", "DELETE"):
            rebound = await http.request(method, path, headers={"Host": "evil.test"})
            assert rebound.status_code == 421
            crossed = await http.request(method, path, headers={"Origin": "https://evil.test"})
            assert crossed.status_code == 403
            assert "python" not in rebound.text + crossed.text


# With an OAuth issuer.


@asynccontextmanager
async def resource_server(scope: str = "waggle") -> AsyncGenerator[tuple[Rig, Issuer]]:
    async with issuing() as issuer:
        keys = Jwks(
            issuer.url,
            None,
            tls=NO_TLS,
            monotonic=time.monotonic,
            pace=Pace(fetch=3.0),
        )
        rules = JwtRules(issuer.url, AUDIENCE, scope)
        issued = JwtVerifier(rules, keys, now=time.time, monotonic=time.monotonic)
        resource = OAuthResource(AUDIENCE, issuer.url, scope)
        access = AccessRules(EitherVerifier(Tokens(), issued), resource)
        async with serving(Setup(access=access)) as rig:
            yield rig, issuer


async def test_the_metadata_names_the_issuer() -> None:
    async with resource_server() as (rig, issuer), raw(rig) as http:
        refused = await http.post("/mcp", json=LIST)
        challenge = refused.headers["www-authenticate"]
        where = "https://waggle.test/.well-known/oauth-protected-resource/mcp"
        assert f'resource_metadata="{where}"' in challenge
        assert 'scope="waggle"' in challenge
        for path in (where.removeprefix("https://waggle.test"), PATHS[4]):
            answer = await http.get(path)
            assert answer.json() == {
                "resource": AUDIENCE,
                "authorization_servers": [issuer.url],
                "bearer_methods_supported": ["header"],
                "resource_name": "waggle",
                "scopes_supported": ["waggle"],
            }


@pytest.mark.parametrize("era", ERAS)
async def test_issued_tokens_work_next_to_a_tokens_file(era: str) -> None:
    async with (
        resource_server() as (rig, issuer),
        client(rig, era, token=issuer.token()) as subject,
        client(rig, era, token=ANN) as ann,
    ):
        await created(subject)
        assert data_of(await subject.call_tool("list_environments", {}))["count"] == 1
        assert data_of(await ann.call_tool("list_environments", {})).get("count", 0) == 0


async def test_unsuitable_issued_tokens_are_refused() -> None:
    async with resource_server() as (rig, issuer), raw(rig) as http:

        async def post(token: str) -> httpx2.Response:
            answer = await http.post("/mcp", json=LIST, headers=bearer(token))
            assert token not in answer.text + str(answer.headers)
            return answer

        lacking = await post(issuer.token(scope="openid"))
        assert lacking.status_code == 403
        assert 'error="insufficient_scope"' in lacking.headers["www-authenticate"]
        assert 'scope="waggle"' in lacking.headers["www-authenticate"]
        expired = await post(issuer.token(exp=1000))
        assert expired.status_code == 401
        assert 'error="invalid_token"' in expired.headers["www-authenticate"]


async def test_an_issuer_that_is_down_is_a_503_for_its_tokens_only() -> None:
    async with resource_server() as (rig, issuer), raw(rig) as http:
        issuer.answers = "error"
        answer = await http.post("/mcp", json=LIST, headers=bearer(issuer.token()))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert (await http.post("/mcp", json=LIST, headers=bearer(ANN))).status_code == 200


async def test_a_session_of_an_issued_token_belongs_to_its_subject() -> None:
    async with (
        resource_server() as (rig, issuer),
        raw(rig, issuer.token()) as ann,
        raw(rig, issuer.token(sub="bob")) as bob,
    ):
        session = await initialized(ann)
        assert (await ann.post("/mcp", json=LIST, headers=session)).status_code == 200
        assert (await bob.post("/mcp", json=LIST, headers=session)).status_code == 404
