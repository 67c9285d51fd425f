# SPDX-License-Identifier: Apache-2.0
"""Raw requests to a server in another thread, as no well-behaved client could send them.

For tests that generate arguments: `hunting_ground` has one environment of the caller and one of
another owner, whose readable content is all `SECRET`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from anyio.from_thread import start_blocking_portal
from tests.support.fakes import FakeFile, FakeGuest
from tests.support.server import MODERN, NO_TLS, Rig, Setup, request, serving

from waggle.domain.access import Owner
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest

OWN = "00000000-0000-4000-8000-000000000001"
FOREIGN = "00000000-0000-4000-8000-000000000002"
FOREIGN_SNAPSHOT = "00000000-0000-4000-8000-500000000003"
SECRET = "another-owners-secret"
TRACES = ("Traceback", 'File "', "pydantic", "site-packages", "src/waggle")
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_HEADER = re.compile(r"[!-~]+( +[!-~]+)*")
_STRANGER = Owner("stranger")


class Wire:
    """Calls methods of 2026-07-28 by raw HTTP."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=20, verify=NO_TLS)

    def send(self, method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """Send a request and return any JSON-RPC answer.

        If a header cannot hold the name, the headers are left out, as a person with curl sends it.
        """
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        if name is None or _HEADER.fullmatch(name):
            headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            headers |= {} if name is None else {"Mcp-Name": name}
            params = {**params, "_meta": _META}
        body = json.dumps(request(method, params))
        answer = self._http.post("/mcp", content=body, headers=headers)
        assert answer.status_code in (200, 400, 404), answer.text
        return answer.json()

    def rpc(self, method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """Return the result of a request, which must not be a protocol error."""
        answer = self.send(method, params, name)
        assert "error" not in answer, answer
        return answer["result"]

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool."""
        return self.rpc("tools/call", {"name": name, "arguments": arguments}, name)

    def tools(self) -> dict[str, dict[str, Any]]:
        """Return the offered tools, by name."""
        return {tool["name"]: tool for tool in self.rpc("tools/list", {})["tools"]}

    def close(self) -> None:
        """Hang up."""
        self._http.close()


@dataclass(slots=True)
class Ground:
    """A server, a connection to it, and another owner's guest."""

    wire: Wire
    rig: Rig
    foreign: FakeGuest
    archive_id: str
    """Id of an archive that the other owner made."""

    def assert_untouched(self) -> None:
        """Assert that nothing of the other owner was changed or even used."""
        (environment,) = self.rig.services.environments.list(owner=_STRANGER)
        assert environment == self.foreign.environment
        assert [command.code for command in self.foreign.commands] == [f"echo {SECRET}".encode()]
        assert self.foreign.files == _secrets()
        (snapshot,) = self.rig.services.snapshots.list(owner=_STRANGER)
        assert snapshot.id == FOREIGN_SNAPSHOT
        assert environment.exposed == ()
        assert (self.foreign.destroys, self.foreign.tried_ports) == (0, [])


def _secrets() -> dict[str, FakeFile]:
    return {path: FakeFile(SECRET.encode(), 0o644) for path in ("/tmp/a", "/home/sandbox/a")}


async def _foreign(rig: Rig) -> tuple[FakeGuest, str]:
    services = rig.services
    environment = await services.environments.create(
        CreateRequest(RuntimeName.SHELL, name=SECRET), owner=_STRANGER
    )
    guest = rig.host.guests[environment.id]
    guest.files = _secrets()
    job = await services.execution.execute(environment.id, f"echo {SECRET}", owner=_STRANGER)
    await job.wait(5)
    archive = await services.trees.download(environment.id, ".", owner=_STRANGER)
    await services.snapshots.take(environment.id, owner=_STRANGER, name=SECRET)
    guest.environment = services.environments.get(environment.id, owner=_STRANGER)
    return guest, archive.id


@contextmanager
def hunting_ground() -> Generator[Ground]:
    """Run a server in another thread, with an environment of the caller and one of a stranger."""
    server = serving(Setup(max_environments=6))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server) as rig:
        wire = Wire(rig.url)
        made = wire.call("create_environment", {"runtime": "python"})
        assert made["structuredContent"]["environment_id"] == OWN
        rig.host.only.files["/tmp/a"] = FakeFile("a€\0".encode(), 0o644)
        foreign, archive = portal.call(_foreign, rig)
        assert foreign.environment.id == FOREIGN
        yield Ground(wire, rig, foreign, archive)
        wire.close()
