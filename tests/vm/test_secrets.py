# SPDX-License-Identifier: Apache-2.0
"""Programs in a machine use secrets that the machine never has.

One machine with a placeholder in a variable; its proxy leads to a forge of the test, which wants
the real token, and to another server, which must not get it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.authorities import Authority
from tests.support.forge import Forge, read_request
from tests.support.programs import program
from tests.support.settings import settings_in
from tests.support.vm import BUSYBOX, PYTHON, Lab, environment, root, sh

from waggle.app.secrets import Secrets, open_secrets
from waggle.domain.environment import Environment
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.machine import Resources
from waggle.domain.network import PUBLIC_NETWORK, parse_network
from waggle.domain.network.rule_book import Judges
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.resolver import Existence, Status
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
HERE = "127.9.9.10"
FORGE, OTHER = "forge.test", "other.test"
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.org")
TOKEN = b"token-0123456789abcdef"
FILE = f"""
[secrets.forge]
value = "{TOKEN.decode()}"
variable = "FORGE_TOKEN"
hosts = ["{FORGE}"]
"""


@dataclass
class World:
    """The servers, and what makes a guest's proxy lead to them."""

    secrets: Secrets
    ports: dict[str, int] = field(default_factory=dict[str, int])
    got: list[bytes] = field(default_factory=list[bytes])
    """What the other server was sent."""

    async def resolve(self, name: str) -> list[Address]:
        if name not in (FORGE, OTHER):
            raise OSError(f"no such name: {name}")
        return [ipaddress.ip_address(HERE)]

    async def exists(self, name: str) -> Existence:
        return Existence(Status.FOUND if name in (FORGE, OTHER) else Status.NO_NAME, 10)

    def proxy(self, made: Environment) -> EgressProxy:
        proxy = EgressProxy(
            AddressPolicy([ipaddress.ip_network(f"{HERE}/32")]),
            self.resolve,
            reach=Reach(parse_network("*:*"), Judges(ports=None, web=None)),
            exists=self.exists,
        )
        proxy.secrets = self.secrets.ended_tls(made)
        return proxy

    def environment(self, image: str, resources: Resources) -> Environment:
        made = environment(image, resources, PUBLIC_NETWORK)
        held, variables = self.secrets.granting.grant(made.id, made.owner, ["forge"])
        return dataclasses.replace(made, secrets=held, variables=variables)

    async def other(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            self.got.append((await read_request(reader))[0])
            writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    directory = tmp_path_factory.mktemp("secrets")
    file = directory / "secrets.toml"
    file.write_text(FILE)
    file.chmod(0o600)
    authority = Authority()
    settings = settings_in(directory, secrets_file=str(file))
    async with AsyncExitStack() as stack:
        secrets = await stack.enter_async_context(open_secrets(settings, authority.bundle))
        world = World(secrets)
        forge = Forge(repository(directory / "served"), TOKEN)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(EOFError, ConnectionError):
                await forge(reader, writer)
                await writer.drain()
            writer.close()

        for host, handler in ((FORGE, serve), (OTHER, world.other)):
            server = await asyncio.start_server(handler, HERE, 0, ssl=authority.server(host))
            stack.callback(server.close)
            world.ports[host] = server.sockets[0].getsockname()[1]
        yield world


def repository(served: Path) -> Path:
    """Make a repository with one commit that may be pushed to; return what it lies in."""
    work, bare = served / "work", served / "private.git"
    served.mkdir()
    for words in (
        ("init", "--quiet", "--initial-branch=main", str(work)),
        ("-C", str(work), *AUTHOR, "commit", "--quiet", "--allow-empty", "--message=one"),
        ("clone", "--quiet", "--bare", str(work), str(bare)),
        ("-C", str(bare), "config", "http.receivepack", "true"),
    ):
        subprocess.run([program("git"), *words], check=True)
    return served


@pytest.fixture(scope="module")
async def guest(shared_lab: Lab, world: World, python_image: BootImage) -> LocalGuest:
    shared_lab.images.known[PYTHON] = python_image
    shared_lab.new_proxy = world.proxy
    wanted = world.environment(PYTHON, Resources(1, 256, 256))
    return shared_lab.adopt(await shared_lab.host().create(wanted, no_progress))


async def said(guest: LocalGuest, script: str) -> str:
    result = await guest.run(sh(f"exec 2>&1\ncd\n{script}\ntrue"))
    return result.stdout.text()


async def test_git_uses_a_token_that_the_machine_never_has(guest: LocalGuest, world: World) -> None:
    forge = f"https://x-access-token:$FORGE_TOKEN@{FORGE}:{world.ports[FORGE]}/private.git"
    other = f"https://x-access-token:$FORGE_TOKEN@{OTHER}:{world.ports[OTHER]}/private.git"
    script = f"""
git clone -q {forge} mine && echo cloned
cd mine && echo hello >file && git add file && git commit -qm two && git push -q && echo pushed
GIT_SSL_NO_VERIFY=1 git push -q {other} || echo kept
"""
    output = await said(guest, script)
    assert "cloned\npushed\n" in output
    assert output.endswith("kept\n"), "the other server must not have been given the token"
    assert world.got
    assert not any(TOKEN in head for head in world.got)
    everything = await root(guest, "cat /proc/[0-9]*/environ /home/sandbox/mine/.git/config || :")
    assert "FORGE_TOKEN=waggle-forge-" in everything
    assert TOKEN.decode() not in everything


async def test_who_sends_a_token_elsewhere_is_told_where_it_may_go(
    guest: LocalGuest, world: World
) -> None:
    url = f"https://x-access-token:$FORGE_TOKEN@{OTHER}:{world.ports[OTHER]}/private.git"
    command = sh(f"GIT_SSL_NO_VERIFY=1 GIT_TERMINAL_PROMPT=0 git ls-remote {url}")
    diagnosis = await guest.diagnose(command, await guest.run(command))
    assert diagnosis
    assert diagnosis.code == "secret_elsewhere"
    assert f"{OTHER} refused" in diagnosis.cause
    assert f"$FORGE_TOKEN to {FORGE}" in diagnosis.cause


async def test_programs_without_proxy_variables_use_it_too(guest: LocalGuest, world: World) -> None:
    code = f"""unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
git ls-remote https://x-access-token:$FORGE_TOKEN@{FORGE}:{world.ports[FORGE]}/private.git"""
    assert "refs/heads/main" in await said(guest, code)


async def test_a_placeholder_in_a_body_is_refused_and_explained(
    guest: LocalGuest, world: World
) -> None:
    code = f"""import os, urllib.request
url = "https://{FORGE}:{world.ports[FORGE]}/private.git/info/refs"
try:
    urllib.request.urlopen(url, data=os.environ["FORGE_TOKEN"].encode())
except urllib.error.HTTPError as error:
    print(error.code, error.headers["X-Waggle-Denied"], error.read().decode())"""
    output = await said(guest, f"python3 - <<'END'\n{code}\nEND")
    assert output.startswith("403 secret-place")
    assert "request headers" in output


async def test_a_copy_of_a_machine_learns_its_own_certificates(quick: Lab, world: World) -> None:
    quick.new_proxy = world.proxy
    wanted = world.environment(BUSYBOX, Resources(1, 192, 128))
    copy = quick.adopt(await quick.host().create(wanted, no_progress))
    bundles = await root(copy, "cat /etc/ssl/certs/waggle-ca.pem; env")
    assert "BEGIN CERTIFICATE" in bundles
    assert "SSL_CERT_FILE=" in bundles
    assert "FORGE_TOKEN=waggle-forge-" in bundles
