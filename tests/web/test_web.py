# SPDX-License-Identifier: Apache-2.0
"""Health, readiness, and errors in JSON."""

from __future__ import annotations

import httpx2
import pytest
from mcp.server.lowlevel import Server
from structlog.testing import capture_logs
from tests.support.server import Setup, client, created, raw, request, serving

import waggle.web as web_module
from waggle.web import Served, build_app
from waggle.web.access import host_policy

pytestmark = pytest.mark.anyio


async def test_healthz_answers_ok() -> None:
    async with serving() as rig, raw(rig) as http:
        answer = await http.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await http.head("/healthz")).status_code == 200


async def test_readyz_answers_ready_or_the_reason() -> None:
    setup = Setup(max_environments=1)
    async with serving(setup) as rig, raw(rig) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        rig.host.reason = "The python image is missing: run 'waggle image build python'."
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable", "reason": rig.host.reason}
        assert (await http.get("/healthz")).status_code == 200
        rig.host.reason = None
        async with client(rig) as connected:
            await created(connected)
        assert (await http.get("/readyz")).json()["reason"] == "All 1 environments are in use."


async def test_a_failing_or_hung_check_is_unready(monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    async def fails() -> str | None:
        raise OSError("secret detail")

    async def hangs() -> str | None:
        await anyio.sleep_forever()
        return None

    monkeypatch.setattr(web_module, "READINESS_SECONDS", 0.01)
    for check, words in ((fails, "check failed"), (hangs, "took more than")):
        web = build_app(Served(Server("x")), not_ready=check, hosts=host_policy("127.0.0.1"))
        transport = httpx2.ASGITransport(web.asgi)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert words in answer.json()["reason"]
        assert "secret" not in answer.text


async def test_a_crash_of_the_endpoint_is_answered_in_json() -> None:
    """The endpoint is not started, which is the only way to make it crash."""
    web = build_app(Served(Server("x")), not_ready=never, hosts=host_policy("127.0.0.1"))
    transport = httpx2.ASGITransport(web.asgi)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        with capture_logs() as logs:
            answer = await http.post("/mcp", json=request("tools/list"))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == -32603
    (crash,) = [entry for entry in logs if entry["event"] == "request_crashed"]
    assert f"Internal error {crash['error_id']}." in answer.json()["error"]["message"]


async def test_requests_after_the_drain_are_refused() -> None:
    web = build_app(Served(Server("x")), not_ready=never, hosts=host_policy("127.0.0.1"))
    transport = httpx2.ASGITransport(web.asgi)
    async with (
        web.endpoint.running(),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        await web.endpoint.drain(0)
        ends = [
            await http.post("/mcp", json=request("tools/list")),
            await http.delete("/mcp", headers={"Mcp-Session-Id": "a"}),
        ]
    for answer in ends:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "shutting down" in answer.json()["error"]["message"]


async def never() -> str | None:
    return None


@pytest.mark.parametrize(
    "method, path, status",
    [("GET", "/", 404), ("GET", "/mcp/../etc", 404), ("POST", "/healthz", 405), ("PUT", "/x", 404)],
)
async def test_unknown_routes_are_json_errors(method: str, path: str, status: int) -> None:
    async with serving() as rig, raw(rig) as http:
        answer = await http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
