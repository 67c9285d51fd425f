# SPDX-License-Identifier: Apache-2.0
"""Requests for the guest itself: the proxy connects them in the guest and never on the host."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.exposure import Streams
from waggle.infra.net.guest_request import LOOPBACKS, Home, parse_authority

if TYPE_CHECKING:
    from tests.infra.net.lab import OpenLab

pytestmark = pytest.mark.anyio
WEB = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Guest:
    """A guest whose ports are on 127.0.0.1 here; `requests` lists ports and addresses."""

    hangs: bool = False
    requests: list[tuple[int, Sequence[str]]] = field(
        default_factory=list[tuple[int, Sequence[str]]]
    )

    async def connect(self, port: int, addresses: Sequence[str]) -> Streams:
        self.requests.append((port, addresses))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        return await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    "host, addresses",
    [
        *[(name, LOOPBACKS) for name in ("localhost", "LocalHost.", "app.localhost", "py-1234")],
        *[("Py-1234", LOOPBACKS), ("0.0.0.0", LOOPBACKS), ("[::]", LOOPBACKS)],  # noqa: S104
        *[("127.0.0.1", ("127.0.0.1",)), ("127.0.1.1", ("127.0.1.1",)), ("[::1]", ("::1",))],
        *[("[::ffff:127.0.0.2]", ("127.0.0.2",))],
        *[(name, ()) for name in ("example.com", "localhost.example.com", "notlocalhost")],
        *[(name, ()) for name in ("10.0.2.2", "169.254.169.254", "127.1", "py-1234.example.com")],
        *[("[fe80::1]", ()), ("[::2]", ())],
    ],
)
def test_targets_in_the_guest_are_recognised(host: str, addresses: Sequence[str]) -> None:
    home = Home(Guest().connect, "Py-1234")
    assert tuple(home.addresses(parse_authority(f"{host}:8000"))) == tuple(addresses)


@pytest.mark.parametrize("host", ["127.0.0.3", "[::1]", "app.localhost", "mine"])
async def test_the_guests_own_server_answers_on_every_port(open_lab: OpenLab, host: str) -> None:
    guest = Guest()
    async with open_lab(ports=frozenset({80})) as lab:
        lab.proxy.lead_home(guest.connect, "mine")
        site = await lab.web(WEB)
        answer = await lab.ask(f"GET http://{host}:{site.port}/ HTTP/1.0\r\n\r\n".encode())
        assert answer.split()[1] == b"200"
        assert (lab.names.questions, lab.decisions) == ([], [])  # nothing leaves the guest
    assert [port for port, _ in guest.requests] == [site.port]


async def test_a_dead_target_in_the_guest_is_not_tried_elsewhere(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        lab.proxy.lead_home(Guest().connect, "mine")
        secret = await lab.forbidden()
        lab.names.known["evil.test"] = ["127.0.0.2"]
        answer = await lab.ask(f"GET http://evil.test:{secret.port}/ HTTP/1.0\r\n\r\n".encode())
        assert answer.split()[1] == b"403"  # a name on loopback is not the guest's own
        answer = await lab.ask(b"GET http://localhost:1/ HTTP/1.0\r\n\r\n")
        assert answer.split()[1] == b"502"
        assert secret.connections == 0


async def test_a_loopback_address_that_the_operator_lists_is_the_hosts(open_lab: OpenLab) -> None:
    guest = Guest()
    async with open_lab() as lab:
        lab.proxy.lead_home(guest.connect, "mine")
        site = await lab.web(WEB)
        answer = await lab.ask(f"GET http://127.0.0.1:{site.port}/ HTTP/1.0\r\n\r\n".encode())
        assert answer.split()[1] == b"200"
    assert guest.requests == []


async def test_connections_to_a_silent_guest_are_bounded() -> None:
    guest = Guest(hangs=True)
    home = Home(guest.connect, "mine")
    for _ in range(70):
        assert await home.open(LOOPBACKS, 80, 0.0) is None
    assert len(guest.requests) == 64
    await home.aclose()
