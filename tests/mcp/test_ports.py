# SPDX-License-Identifier: Apache-2.0
"""expose_port and unexpose_port: the URLs that they show, to whom, and the links that they make."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from tests.support.owners import ANN, guarded
from tests.support.server import (
    MODERN,
    Rig,
    Setup,
    client,
    created,
    data_of,
    error_of,
    mcp_server,
    raw,
    serving,
    text_of,
)

from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.observer import Call, Observer

pytestmark = pytest.mark.anyio


async def test_expose_port_reports_whether_a_program_listens() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        rig.host.only.listening.add(8000)
        arguments = {"environment_id": identity, "port": 8000}
        assert data_of(await agent.call_tool("expose_port", arguments)) == {
            "port": 8000,
            "url": "http://127.0.0.1:40000/",
            "listening": True,
        }
        silent = await agent.call_tool("expose_port", {**arguments, "port": 9000})
        assert "listening" not in data_of(silent)
        assert data_of(silent)["note"].startswith("Nothing listens there yet")
        assert data_of(silent)["note"] in text_of(silent)
        closed = await agent.call_tool("unexpose_port", arguments)
        assert data_of(closed)["was_exposed"] is True
        again = await agent.call_tool("unexpose_port", arguments)
        assert data_of(again) == {"port": 8000}
        assert text_of(again) == "Port 8000 is not exposed."


class Heard(Observer):
    """Keeps what it hears of links."""

    def __init__(self) -> None:
        self.links: list[Call] = []

    def call_ended(self, call: Call) -> None:
        if call.method == "port_link":
            self.links.append(call)


async def opened(agent: Client, **more: object) -> tuple[dict[str, Any], str, str]:
    """Expose a port of a new environment; return the result, its text and the environment's id."""
    identity = await created(agent)
    arguments = {"environment_id": identity, "port": 8000, "wait_seconds": 0, **more}
    result = await agent.call_tool("expose_port", arguments)
    return data_of(result), text_of(result), identity


async def test_a_server_on_loopback_shows_the_url_of_its_machine_alone() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        data, _, identity = await opened(agent)
        assert "public_url" not in data
        asked, text, _ = await opened(agent, link_minutes=5)
        assert asked["public_url"].startswith(f"{rig.url}/e/")
        assert "?waggle_link=" in asked["public_url"]
        assert asked["public_until"] == "2026-03-04T05:11:07Z"
        assert asked["public_url"] in text
        assert identity not in asked["public_url"]


@pytest.mark.parametrize(
    "urls, begins",
    [
        (ExposedUrls("https://waggle.test"), "https://waggle.test/e/{id}/8000/"),
        (ExposedUrls("https://waggle.test", "box.test"), "https://8000-{id}.box.test/"),
        (ExposedUrls(host="localhost"), "http://8000-{id}.localhost:{port}/"),
    ],
)
async def test_where_others_reach_the_server_there_is_a_url_for_them(
    urls: ExposedUrls, begins: str
) -> None:
    async with serving(Setup(urls=urls)) as rig, client(rig, MODERN) as agent:
        data, text, identity = await opened(agent)
        port = rig.url.rpartition(":")[2]
        assert data["public_url"] == begins.format(id=identity, port=port)
        assert "public_until" not in data  # whoever reaches it may use it
        assert data["public_url"] in text


async def test_with_authentication_the_url_for_others_is_a_link_and_audited() -> None:
    heard = Heard()
    setup = guarded()
    setup.observer = heard
    setup.urls = ExposedUrls("https://waggle.test", is_private=True)
    async with serving(setup) as rig, client(rig, MODERN, token=ANN) as agent:
        data, _, identity = await opened(agent)
        assert data["public_url"].startswith(f"https://waggle.test/e/{identity}/8000/?waggle_link=")
        assert data["public_until"] == "2026-03-04T06:06:07Z"
        (call,) = heard.links
        assert (call.owner, call.environment_id, call.outcome) == ("ann", identity, "ok")
        await used(rig, data["public_url"].removeprefix("https://waggle.test"))


async def used(rig: Rig, path: str) -> None:
    async with raw(rig) as http:
        answer = await http.get(path)
        assert answer.status_code == 502, "nothing listens, but the link is good"
        assert (await http.get(path[:-4] + "AAAA")).status_code == 403


async def test_a_link_is_valid_for_a_minute_to_a_week() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        for minutes in (0, 10_081):
            arguments = {"environment_id": identity, "port": 8000, "link_minutes": minutes}
            refused = await agent.call_tool("expose_port", arguments)
            assert error_of(refused)["code"] == "invalid_argument"
        assert rig.services.environments.get(identity, owner="local").exposed == ()


async def test_over_stdio_there_are_no_links() -> None:
    async with mcp_server() as server, Client(server.lowlevel) as agent:
        identity = await created(agent)
        arguments = {"environment_id": identity, "port": 8000, "wait_seconds": 0}
        data = data_of(await agent.call_tool("expose_port", arguments))
        assert set(data) == {"port", "url", "note"}
        refused = await agent.call_tool("expose_port", {**arguments, "link_minutes": 5})
        assert error_of(refused)["code"] == "unsupported"
