# SPDX-License-Identifier: Apache-2.0
"""Programs have a network without knowing of the proxy: names, TCP, refusals, what fails at once.

One machine, whose proxy leads to a web server of the test. Programs are given no proxy variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from tests.support.vm import PYTHON, Lab, command, root, sh

from waggle.domain.environment import Environment
from waggle.domain.image import BootImage
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.domain.network.rule_book import Judges
from waggle.domain.programs import GuestUser
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
ALLOWED = "127.9.9.9"
"""Where the web server listens; the operator allows this one address."""
SITE = "site.test"
DENIED = "denied.test"
"""A name that the rules refuse."""
PRIVATE = "private.test"
"""A name that leads to an address that the policy refuses."""
DENIED_MS = 100
BUSYBOX = "/.waggle/bin/busybox"


@dataclass
class Site:
    """A web server, and the requests that it got."""

    port: int = 0
    lines: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    """The names that were looked up for the guest's name server."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request with its path, and with all that comes behind its head."""
        with contextlib.suppress(EOFError, ConnectionError):  # it may have only been connected to
            head = await reader.readuntil(b"\r\n\r\n")
            self.lines.append(head.partition(b"\r\n")[0].decode())
            body = await reader.read() if b"half" in head else head.split()[1]
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    async def resolve(self, name: str) -> list[Address]:
        """Resolve the names of this module."""
        known = {SITE: ALLOWED, DENIED: ALLOWED, PRIVATE: "10.1.2.3"}
        if name not in known:
            raise OSError(f"no such name: {name}")
        return [ipaddress.ip_address(known[name])]

    async def exists(self, name: str) -> Existence:
        """Return whether one of them exists; of `many` names, each does."""
        self.asked.append(name)
        there = name in (SITE, PRIVATE) or name.startswith("many")
        return Existence(Status.FOUND if there else Status.NO_NAME, 10)

    def proxy(self, _environment: Environment) -> EgressProxy:
        """Return a proxy that leads to this server."""
        return EgressProxy(
            AddressPolicy([ipaddress.ip_network(f"{ALLOWED}/32")]),
            self.resolve,
            reach=Reach(
                parse_network(["public", f"deny {DENIED}", f"deny {SITE}:99"]),
                Judges(ports=None, web=None),
            ),
            exists=self.exists,
        )


@pytest.fixture(scope="module")
async def site() -> AsyncGenerator[Site]:
    async with AsyncExitStack() as stack:
        site = Site()
        server = await asyncio.start_server(site.serve, ALLOWED, 0)
        stack.callback(server.close)
        site.port = server.sockets[0].getsockname()[1]
        yield site


@pytest.fixture(scope="module")
async def connected(shared_lab: Lab, site: Site, python_image: BootImage) -> LocalGuest:
    shared_lab.images.known[PYTHON] = python_image
    shared_lab.new_proxy = site.proxy
    return await shared_lab.guest(PYTHON, memory=256, network=PUBLIC_NETWORK)


PRELUDE = """
import os, socket, ssl, struct, sys, time, threading, urllib.request
for name in [name for name in os.environ if "proxy" in name.lower()]:
    del os.environ[name]
def attempt(work, *given):
    began = time.monotonic()
    try:
        result = work(*given)
    except OSError as error:
        result = type(error).__name__
    return result, (time.monotonic() - began) * 1000
def connect(host, port):
    with socket.create_connection((host, port), 10) as made:
        return made.getpeername()[0]
def get(url):
    return urllib.request.urlopen(url, timeout=20).read().decode()
"""


async def python(guest: LocalGuest, code: str, user: GuestUser = GuestUser.SANDBOX) -> list[str]:
    """Run code without proxy variables and return the lines that it prints."""
    program = command(
        *("python3", "{file}"), code=(PRELUDE + code).encode(), extension=".py", user=user
    )
    result = await guest.run(program)
    assert result.exit_code == 0, result.stderr.text()
    return result.stdout.text().splitlines()


async def test_programs_connect_by_name(connected: LocalGuest, site: Site) -> None:
    code = f"""
print(get("http://{SITE}:{site.port}/one"))
address = socket.gethostbyname("{SITE.upper()}")
print(address.startswith("198.18."), address == socket.gethostbyname("{SITE}"))
print(socket.gethostbyaddr(address)[0])
print(get(f"http://{{address}}:{site.port}/two"))
"""
    assert await python(connected, code) == ["/one", "True True", SITE, "/two"]
    assert site.lines[-2:] == ["GET /one HTTP/1.1", "GET /two HTTP/1.1"]


async def test_each_direction_ends_by_itself(connected: LocalGuest, site: Site) -> None:
    code = f"""
with socket.create_connection(("{SITE}", {site.port})) as made:
    made.sendall(b"GET /half HTTP/1.1\\r\\n\\r\\n" + b"x" * 1000000)
    made.shutdown(socket.SHUT_WR)
    print(sum(len(piece) for piece in iter(lambda: made.recv(65536), b"")))
"""
    (size,) = await python(connected, code)
    assert 1_000_000 < int(size) < 1_000_100


async def test_what_is_refused_is_refused_at_connect(connected: LocalGuest, site: Site) -> None:
    code = f"""
for host, port in (("{SITE}", 99), ("{PRIVATE}", {site.port}), ("192.0.2.1", 80), ("{SITE}", 1), (
    "10.1.2.3", 5432), ("192.168.0.1", 80), ("172.16.0.1", 80), ("100.64.0.1", 80), (
    "169.254.169.254", 80)):
    results = [attempt(connect, host, port) for _ in range(3)]
    print(*sorted({{result for result, _ in results}}), min(ms for _, ms in results))
"""
    for line in await python(connected, code):
        error, milliseconds = line.split()
        assert error == "ConnectionRefusedError"
        assert float(milliseconds) < DENIED_MS
    use = connected.network_use()
    assert use is not None
    refused = {one.decision.place: one.decision.code for one in use.denied}
    assert refused["10.1.2.3:5432"] == "private", "there is a record of what no name led to"
    assert refused["169.254.169.254:80"] == "link-local"


async def test_a_name_that_the_rules_refuse_is_not_looked_up(
    connected: LocalGuest, site: Site
) -> None:
    lines = await python(connected, f'print(attempt(connect, "{DENIED}", {site.port})[0])')
    assert lines == ["ConnectionRefusedError"]
    assert DENIED not in site.asked


async def test_names_are_what_they_are_on_the_host(connected: LocalGuest, site: Site) -> None:
    code = f"""
def look_up(name):
    try:
        rows = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        return sorted({{row[4][0] for row in rows}})
    except socket.gaierror as error:
        return error.errno == socket.EAI_NONAME or str(error)
print(look_up("none.test"), look_up("also none.test"))
print("127.0.0.1" in look_up("app.localhost"), look_up(socket.gethostname()))
flags = socket.AI_ADDRCONFIG
print(len(socket.getaddrinfo("{SITE}", 80, socket.AF_INET, socket.SOCK_STREAM, flags=flags)))
"""
    said = await python(connected, code)
    assert said[0] == "True True"
    assert said[1] == "True ['127.0.0.1']"
    assert said[2] == "1", "the machine counts as one with a network"


ASK = """
def question(name, kind=1, more=b"", extra=0):
    labels = b"".join(bytes([len(part)]) + part for part in name.encode().split(b".") if part)
    head = struct.pack(">6H", 7, 0x100, 1, 0, 0, extra)
    return head + labels + b"\\0" + struct.pack(">2H", kind, 1) + more
def by_udp(server, message):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)
        asking.sendto(message, (server, 53))
        answer, source = asking.recvfrom(2000)
        assert source == (server, 53), source
        return answer
def by_tcp(server, *messages):
    with socket.create_connection((server, 53), 10) as asking:
        asking.sendall(b"".join(struct.pack(">H", len(m)) + m for m in messages))
        answers = []
        while len(answers) < len(messages):
            size = struct.unpack(">H", asking.recv(2, socket.MSG_WAITALL))[0]
            answers.append(asking.recv(size, socket.MSG_WAITALL))
        return answers
def shown(answer):
    flags, _, count, _, extra = struct.unpack(">5H", answer[2:12])
    return flags & 15, count, extra
"""


async def test_any_address_answers_questions_by_udp_and_tcp(
    connected: LocalGuest, site: Site
) -> None:
    code = f"""{ASK}
option = b"\\0" + struct.pack(">2HIH", 41, 4096, 0, 0)
for server in ("192.0.2.53", "198.18.0.2", "8.8.8.8"):
    print(shown(by_udp(server, question("{SITE}"))), shown(by_udp(server, question("none.test"))))
    print(*[shown(answer) for answer in by_tcp(server, question("{SITE}"), question("{SITE}", 28))])
print(shown(by_udp("192.0.2.53", question("{SITE}", 1, option, 1))))
for kind in (15, 16, 33, 65, 28):
    print(shown(by_udp("192.0.2.53", question("{SITE}", kind))))
print(shown(by_udp("192.0.2.53", b"\\0" * 12)))
print(shown(by_udp("192.0.2.53", question("x" * 63 + ".test"))))
"""
    said = await python(connected, code)
    assert said[:6] == ["(0, 1, 0) (3, 0, 0)", "(0, 1, 0) (0, 0, 0)"] * 3
    assert said[6] == "(0, 1, 1)", "an answer with EDNS to a question with it"
    assert said[7:12] == ["(0, 0, 0)"] * 5, "no data of other kinds"
    assert said[12:] == ["(1, 0, 0)", "(3, 0, 0)"]


async def test_what_does_not_get_out_fails_at_once(connected: LocalGuest) -> None:
    code = """
def datagram(host, connected):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as quic:
        quic.settimeout(10)
        if connected:
            quic.connect((host, 443))
            quic.send(b"hello")
        else:
            quic.sendto(b"hello", (host, 443))
        return quic.recv(1)
def by_6():
    with socket.socket(socket.AF_INET6) as made:
        made.connect(("2001:db8::1", 443))
for work, *given in (datagram, "192.0.2.1", True), (datagram, "192.0.2.1", False), (
    datagram, "10.1.2.3", True), (datagram, "169.254.1.2", False), (by_6,), (
    connect, "240.0.0.1", 80), (connect, "0.1.2.3", 80):
    result, ms = attempt(work, *given)
    print(result, ms < 1000)
"""
    assert await python(connected, code) == [
        *["PermissionError True"] * 4,
        *["OSError True"] * 3,
    ]
    for host in ("192.0.2.1", "10.1.2.3"):
        ping = await connected.run(sh(f"ping -c 1 -W 5 {host} 2>&1", user=GuestUser.ROOT))
        assert "not permitted" in ping.stdout.text()
    own = await connected.run(sh("ping -c 1 127.0.0.1 >/dev/null && echo own", user=GuestUser.ROOT))
    assert own.stdout.text() == "own\n"


OWN_NETWORK = f"""
import subprocess
def root(*words):
    subprocess.run(["{BUSYBOX}", *words], check=True)
def echoes(at, own):
    server = socket.socket(socket.AF_INET, own)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((at, 7))
    if own == socket.SOCK_DGRAM:
        def answer():
            while True:
                server.sendto(*server.recvfrom(100))
    else:
        server.listen()
        def answer():
            while True:
                made, _ = server.accept()
                made.sendall(made.recv(100))
                made.close()
    threading.Thread(target=answer, daemon=True).start()
def quickest(work, *given):
    return min((attempt(work, *given) for _ in range(5)), key=lambda pair: pair[1])
def echo(host, own, port=7):
    with socket.socket(socket.AF_INET, own) as made:
        made.settimeout(10)
        made.connect((host, port))
        made.sendall(b"own")
        return made.recv(100)
KINDS = socket.SOCK_STREAM, socket.SOCK_DGRAM
"""
NEIGHBOUR = f"""{PRELUDE}{OWN_NETWORK}
for kind in KINDS:
    echoes("10.88.0.2", kind)
print("ready", flush=True)
sys.stdin.readline()
for kind in KINDS:
    print(*quickest(echo, "10.88.0.1", kind), flush=True)
print(*quickest(connect, "172.30.0.1", 80), flush=True)
"""
APART = 'echo; read made; exec python3 -c "$0"'
"""Run a program in a network name space of its own, once its network is made."""


@pytest.mark.parametrize("bits", [8, 16])
async def test_networks_of_the_machine_itself_are_left_alone(
    connected: LocalGuest, site: Site, bits: int
) -> None:
    """Such as those of containers, also one that has all of a private range."""
    code = f"""{OWN_NETWORK}
inside = ["{BUSYBOX}", "unshare", "-n", "{BUSYBOX}", "sh", "-c", {APART!r}, {NEIGHBOUR!r}]
apart = subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
apart.stdout.readline()
root("ip", "link", "add", "own0", "type", "veth")
root("ip", "link", "set", "veth0", "netns", str(apart.pid))
root("ip", "link", "add", "ownbr", "type", "bridge")
root("ip", "link", "set", "own0", "master", "ownbr")
root("ip", "addr", "add", "10.88.0.1/{bits}", "dev", "ownbr")
root("ip", "link", "set", "own0", "up")
root("ip", "link", "set", "ownbr", "up")
there = ["nsenter", f"--net=/proc/{{apart.pid}}/ns/net", "{BUSYBOX}"]
root(*there, "ip", "addr", "add", "10.88.0.2/16", "dev", "veth0")
root(*there, "ip", "link", "set", "veth0", "up")
root(*there, "ip", "route", "add", "default", "via", "10.88.0.1")
print("go", file=apart.stdin, flush=True)
assert apart.stdout.readline().strip() == "ready"
for kind in KINDS:
    echoes("10.88.0.1", kind)
    echoes("127.0.0.1", kind)
for host in ("127.0.0.1", "10.88.0.1", "10.88.0.2"):
    for kind in KINDS:
        print(*quickest(echo, host, kind))
root("ping", "-q", "-c", "1", "-W", "5", "10.88.0.2")
print("go", file=apart.stdin, flush=True)
print(*(apart.stdout.readline() for _ in range(3)), sep="")
apart.kill()
root("ip", "link", "del", "ownbr")
print(*quickest(connect, "10.88.0.2", 7))
"""
    said = [line for line in await python(connected, code, GuestUser.ROOT) if " " in line]
    said = [line for line in said if line.split()[0] in ("b'own'", "ConnectionRefusedError")]
    assert [line.split()[0] for line in said] == [*["b'own'"] * 8, *["ConnectionRefusedError"] * 2]
    assert all(float(line.split()[1]) < DENIED_MS for line in said), said


async def test_every_port_of_the_machine_is_for_programs(connected: LocalGuest) -> None:
    code = """
taken = []
for port in (53, 80, 443):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for host in ("127.0.0.1", "0.0.0.0"):
            with socket.socket(socket.AF_INET, kind) as own:
                own.bind((host, port))
with socket.socket() as server:
    server.bind(("0.0.0.0", 8001))
    server.listen()
    print(*[connect(host, 8001) for host in ("127.0.0.1", "198.18.0.1", socket.gethostname())])
"""
    assert await python(connected, code) == ["127.0.0.1 198.18.0.1 127.0.0.1"]


async def test_many_connections_and_names_at_once(connected: LocalGuest, site: Site) -> None:
    code = f"""
results = []
def work(number):
    results.append(attempt(get, f"http://{SITE}:{site.port}/{{number}}")[0])
threads = [threading.Thread(target=work, args=(number,)) for number in range(150)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(results) == sorted(f"/{{number}}" for number in range(150)), results[:3])
names = []
def look_up(number):
    names.append(socket.gethostbyname(f"many{{number}}.test"))
threads = [threading.Thread(target=look_up, args=(number,)) for number in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(set(names)))
"""
    said = await python(connected, code)
    assert said[0].startswith("True"), said
    assert said[1] == "50"


KILL = """
import signal
def reaching():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read() == "reach\\n":
                return int(pid)
        except OSError:
            pass
def after(old):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (new := reaching()) and new != old:
            return new
        time.sleep(0.01)
"""


async def test_whoever_kills_it_has_a_network_again(connected: LocalGuest, site: Site) -> None:
    code = f"""{KILL}
address = socket.gethostbyname("{SITE}")
pid = reaching()
print(open(f"/proc/{{pid}}/oom_score_adj").read().strip())
for _ in range(20):
    os.kill(pid, signal.SIGKILL)
    pid = after(pid)
deadline = time.monotonic() + 20
while time.monotonic() < deadline and attempt(connect, "{SITE}", {site.port})[0] != address:
    time.sleep(0.05)
print(get(f"http://{{address}}:{site.port}/old-address"), get("http://{SITE}:{site.port}/again"))
"""
    said = await python(connected, code, GuestUser.ROOT)
    assert said == ["-1000", "/old-address /again"]


async def test_the_first_connection_after_a_pause_works(connected: LocalGuest, site: Site) -> None:
    get = f'print(get("http://{SITE}:{site.port}/"))'
    for _ in range(3):
        await connected.pause()
        await connected.unpause()
        assert await python(connected, get) == ["/"]


async def test_the_first_connection_of_a_copy_works(quick: Lab, site: Site) -> None:
    quick.new_proxy = site.proxy
    copy = await quick.guest(network=PUBLIC_NETWORK)
    plain = f"env -u http_proxy {BUSYBOX} wget -q -O - http://{SITE}:{site.port}/copy"
    result = await copy.run(sh(plain))
    assert result.stdout.text() == "/copy", result.stderr.text()


async def test_only_root_may_use_bpf(connected: LocalGuest) -> None:
    assert (await root(connected, "cat /proc/sys/kernel/unprivileged_bpf_disabled")).strip() == "1"


async def test_a_machine_without_a_network_has_no_names_and_no_ways(
    connected: LocalGuest, site: Site
) -> None:
    """A renewal takes the network away and gives it back."""
    code = f"""
print(attempt(socket.gethostbyname, "{SITE}")[0], *attempt(connect, "192.0.2.1", 80)[:1])
print(open("/etc/resolv.conf").read().split()[1])
"""
    connected.set_network(NO_NETWORK, ())
    await connected.renew_network()
    assert await python(connected, code) == ["gaierror OSError", "127.0.0.1"]
    ways = await root(connected, f"{BUSYBOX} ip route show table local; {BUSYBOX} ip addr")
    assert "198.18" not in ways
    assert "default" not in ways
    connected.set_network(parse_network(["public", "10.1.0.0/16:*"]), ())
    await connected.renew_network()
    code = f"""
print(get("http://{SITE}:{site.port}/back"))
print(attempt(connect, "10.1.2.3", 80)[0])
"""
    assert await python(connected, code) == ["/back", "ConnectionRefusedError"]
