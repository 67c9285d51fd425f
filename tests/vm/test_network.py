# SPDX-License-Identifier: Apache-2.0
"""A guest reaches nothing on the host directly, under any policy; with `public` it has the proxy.

A real listener on every address of the host counts what arrives. Root in the guest sets routes
first, so that the tests check the isolation and not a missing route.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from tests.support.vm import Lab, command, no_names, root, sh
from tests.support.waiting import until

from waggle.app.values import image_service
from waggle.config import load
from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost
from waggle.domain.host import no_progress
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, Network
from waggle.domain.network.rule_book import Judges
from waggle.domain.programs import GuestUser
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.policy import AddressPolicy
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
ALLOWED = "127.9.9.9"
"""A host loopback address that the operator allows, to show that the way out works at all."""

EVERY_PORT = Reach(judges=Judges(ports=None, web=None))


@dataclass(slots=True)
class Listener:
    """TCP and UDP on one port of all addresses; `heard` holds what arrived."""

    port: int
    heard: list[str] = field(default_factory=list[str])


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._heard.append(f"udp {data!r}")


@contextlib.asynccontextmanager
async def listening() -> AsyncGenerator[Listener]:
    made = Listener(0)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            made.heard.append(f"tcp {await reader.read(100)!r}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nheard")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "0.0.0.0", 0)  # noqa: S104 - all of the host
    made.port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(made.heard),
        local_addr=("0.0.0.0", made.port),  # noqa: S104
    )
    try:
        yield made
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def own_addresses() -> list[str]:
    """Return the addresses of this host, including the one used towards the internet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("203.0.113.1", 9))
        found = [probe.getsockname()[0]]
    found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)]
    usable = {text for text in found if ipaddress.ip_address(text).version == 4}
    return sorted(usable - {"0.0.0.0"})  # noqa: S104 - a value that means none


def proxy_for_tests(_environment: Environment) -> EgressProxy:
    allowed = ipaddress.ip_network(f"{ALLOWED}/32")
    return EgressProxy(AddressPolicy([allowed]), no_names, reach=EVERY_PORT)


BUSYBOX = "/.waggle/bin/busybox"
CARD = (BUSYBOX, "nsenter", "--net=/proc/2/ns/net", "--")
"""A command prefix for the network namespace of QEMU's card, where only root runs programs."""


async def every_way(guest: LocalGuest, addresses: list[str], port: int) -> None:
    """Try TCP, UDP, DNS and ping to each address, as root with a route to everywhere."""
    routes = (
        "ip route add default via 10.0.2.2 dev eth0;"
        "ip route add 127.0.0.2/32 via 10.0.2.2 dev eth0 2>&1"
    )
    await guest.run(command(*CARD, BUSYBOX, "sh", "-c", routes, user=GuestUser.ROOT))
    tries = "".join(
        f"(echo tcp | nc -w 2 {address} {port}) & (echo udp | timeout 2 nc -u {address} {port}) &"
        f"timeout 3 nslookup example.com {address} & timeout 3 ping -c 1 {address} &"
        for address in addresses
    )
    for place in ((), CARD):
        tried = command(*place, BUSYBOX, "sh", "-c", f"{tries} wait", user=GuestUser.ROOT)
        assert (await guest.run(tried)).exit_code == 0


async def ask_proxy(guest: LocalGuest, url: str) -> str:
    """Return the first line and the last 5 characters of the proxy's answer for `url`."""
    request = f"GET {url} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
    result = await guest.run(sh(f"printf '{request}' | nc -w 10 127.0.0.1 3128", timeout=30))
    return result.stdout.text().partition("\r\n")[0] + result.stdout.text()[-5:]


@pytest.mark.parametrize("policy", [NO_NETWORK, PUBLIC_NETWORK])
async def test_nothing_of_the_host_is_reachable_directly(lab: Lab, policy: Network) -> None:
    lab.new_proxy = proxy_for_tests
    guest = await lab.guest(network=policy)
    addresses = ["10.0.2.2", "10.0.2.3", "10.0.2.4", "169.254.169.254", "127.0.0.2"]
    async with listening() as made:
        await every_way(guest, [*addresses, *own_addresses()], made.port)
        assert made.heard == []
        with socket.create_connection(("127.0.0.1", made.port)) as control:
            control.sendall(b"control")
            await until(lambda: bool(made.heard))
    assert made.heard == ["tcp b'control'"]


async def test_without_network_there_is_no_proxy(quick: Lab) -> None:
    guest = await quick.guest(network=NO_NETWORK)
    assert await ask_proxy(guest, "http://127.0.0.1/") == ""


async def test_the_proxy_is_the_only_way_out_and_obeys_its_policy(quick: Lab) -> None:
    quick.new_proxy = proxy_for_tests
    guest = await quick.guest(network=PUBLIC_NETWORK)
    async with listening() as made:
        for address in ("127.0.0.1", "localhost", "169.254.169.254", *own_addresses()):
            answer = await ask_proxy(guest, f"http://{address}:{made.port}/")
            assert answer.startswith(("HTTP/1.1 4", "HTTP/1.1 5")), answer
        assert made.heard == []
        answer = await ask_proxy(guest, f"http://{ALLOWED}:{made.port}/")
        assert answer.startswith("HTTP/1.1 200")
        assert answer.endswith("heard")
        assert len(made.heard) == 1


async def test_requests_of_a_guest_to_itself_reach_itself(quick: Lab) -> None:
    quick.new_proxy = proxy_for_tests
    guest = await quick.guest(network=PUBLIC_NETWORK)
    serve = (
        "mkdir /tmp/www; echo mine > /tmp/www/index.html; busybox httpd -p [::1]:8000 -h /tmp/www"
    )
    name, variables = (await root(guest, f"{serve}; hostname; echo $no_proxy $NO_PROXY")).split(
        "\n"
    )[:2]
    assert [variable.split(",")[-1] for variable in variables.split()] == [name, name]
    for address in ("localhost", "app.localhost", name, "[::1]", "0.0.0.0"):  # noqa: S104
        answer = await ask_proxy(guest, f"http://{address}:8000/index.html")
        assert answer.startswith("HTTP/1.1 200"), address
        assert answer.endswith("mine\n")
    for address in ("127.0.0.1", "127.0.1.1"):
        answer = await ask_proxy(guest, f"http://{address}:8000/")
        assert answer.startswith("HTTP/1.1 502"), address


async def test_the_proxy_returns_with_a_new_connection(quick: Lab) -> None:
    quick.new_proxy = proxy_for_tests
    guest = await quick.guest(network=PUBLIC_NETWORK)
    with pytest.raises(GuestLost):
        await guest.run(sh("kill -9 -1", user=GuestUser.ROOT))
    async with listening() as made:
        answer = await ask_proxy(guest, f"http://{ALLOWED}:{made.port}/")
        assert answer.endswith("heard")


async def test_root_in_the_guest_reaches_no_vsock_port_or_socket_of_the_host(lab: Lab) -> None:
    """TSI of libkrun would connect sockets of families 46 to 48, and plain ones, on the host."""
    lab.images.known["python"] = await image_service(load()).boot_image("python", no_progress)
    guest = await lab.guest("python", memory=256)
    async with listening() as made:
        code = VSOCK.replace("PORT", str(made.port)).encode()
        result = await guest.run(
            command("python3", "{file}", code=code, extension=".py", user=GuestUser.ROOT)
        )
        assert result.stdout.text().splitlines()[-1] == "reached: []"
        assert made.heard == []


VSOCK = """
import socket
reached = []
addresses = [(40, (2, port)) for port in (1, 22, 1024, 3128, PORT)]
addresses += [(family, ("127.0.0.1", PORT)) for family in (2, 46, 47, 48)]
for family, address in addresses:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as probe:
                probe.settimeout(2)
                probe.connect(address)
                probe.send(b"hello")
                reached += [(family, address)] if kind == socket.SOCK_STREAM else []
        except (OSError, TypeError) as error:
            print(family, kind, address, error)
print("reached:", reached)
"""
