# SPDX-License-Identifier: Apache-2.0
"""A program in a guest without proxy variables against one with them: a page, 16 MB, a refusal.

And 16 MB through TLS that the proxy ends for a secret, against the same through a tunnel.

The web server is one of this process, under a name that only the waggle server's /etc/hosts has:
that runs in a mount namespace of its own, so this needs root.
"""

from __future__ import annotations

import http.server
import json
import os
import ssl
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.certificate import self_signed
from benchmarks.figures import compare
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import environment, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected

ROUNDS = 30
SECONDS = 280
LARGE = 16 << 20
SITE, DENIED = "site.bench.example", "denied.bench.example"
ENDED = "secret.bench.example"
"""The host of a secret, so that the proxy ends TLS to it."""
ADDRESS = "127.0.0.2"
MILLISECONDS = 1e3
_HOSTS = f"127.0.0.1 localhost\n{ADDRESS} {SITE} {ENDED}\n192.0.2.1 {DENIED}\n"
PROGRAM = """
import json, socket, ssl, time, urllib.request
plain, secure, ended, denied, rounds = PLAIN, SECURE, ENDED, DENIED, ROUNDS
proxies = {kind: "http://127.0.0.1:3128" for kind in ("http", "https")}
context = ssl._create_unverified_context()
def opener(proxies):
    handlers = urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    return urllib.request.build_opener(*handlers)
openers = {"without": opener({}), "with": opener(proxies)}
def get(name, url):
    began = time.perf_counter()
    openers[name].open(url, timeout=60).read()
    return time.perf_counter() - began
def refusal(name):
    began = time.perf_counter()
    try:
        socket.create_connection((name, 80), 10)
    except ConnectionRefusedError:
        return time.perf_counter() - began
def interleaved(url, rounds):
    return turns({name: (name, url) for name in openers}, rounds)
def turns(ways, rounds):
    found = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            seconds = get(*ways[name])
            if number >= 0:
                found[name].append(seconds)
    return found
print(json.dumps({
    "page": interleaved(plain, rounds),
    "large": interleaved(secure, max(1, rounds // 4)),
    "secret": turns({"ended": ("with", ended), "tunnel": ("with", secure)}, max(1, rounds // 4)),
    "denied": [refusal(denied) for _ in range(rounds)],
}))
"""


async def measure(options: Options) -> list[Result]:
    """Measure the rows `direct-page`, `direct-large`, `ended-large` and `direct-denied`."""
    rounds = options.rounds or ROUNDS
    with tempfile.TemporaryDirectory() as directory, _site(Path(directory)) as ports:
        plain, secure, ended = ports
        hosts = Path(directory, "hosts")
        hosts.write_text(_HOSTS)
        bind = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        more = {
            "WAGGLE_EGRESS_ALLOW_CIDRS": f"{ADDRESS}/32",
            "WAGGLE_EGRESS_PORTS": f"80,{plain},{secure},{ended}",
            "WAGGLE_CA_BUNDLE": f"{directory}/{ENDED}.pem",
            "WAGGLE_SECRETS_FILE": str(_secrets(Path(directory))),
        }
        async with (
            serving(more=more, within=("unshare", "--mount", "sh", "-c", bind, "sh")) as server,
            connected(server.url) as client,
            environment(client, "python", secrets=["bench"]) as made,
        ):
            known = {
                "PLAIN": f"http://{SITE}:{plain}/",
                "SECURE": f"https://{SITE}:{secure}/large",
                "ENDED": f"https://{ENDED}:{ended}/large",
                "DENIED": DENIED,
            }
            code = PROGRAM.replace("ROUNDS", str(rounds), 1)
            for word, value in known.items():
                code = code.replace(word, repr(value), 1)
            options.tick("in the guest")
            done = await call(
                client,
                "execute",
                environment_id=made.id,
                code=code,
                timeout_seconds=SECONDS,
                wait_seconds=SECONDS,
            )
    found = json.loads(str(done["stdout"]))
    denied = max(found["denied"]) * MILLISECONDS
    return [
        ratio("direct-page", compare(found["page"]["without"], found["page"]["with"])),
        ratio("direct-large", compare(found["large"]["without"], found["large"]["with"])),
        ratio("ended-large", compare(found["secret"]["ended"], found["secret"]["tunnel"])),
        Result("direct-denied", denied, f"{denied:.0f} ms", "", f"the longest of {rounds}"),
    ]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = bytes(LARGE) if self.path == "/large" else b"a small page\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def _secrets(directory: Path) -> Path:
    file = directory / "secrets.toml"
    file.touch(0o600)
    file.write_text(
        f'[secrets.bench]\nvalue = "0123456789abcdef"\nvariable = "BENCH"\nhosts = ["{ENDED}"]\n'
    )
    return file


@contextmanager
def _site(directory: Path) -> Generator[list[int]]:
    """Serve on three ports: without TLS, with it, and with it for the host of the secret."""
    if os.geteuid() != 0:
        raise RuntimeError("this benchmark needs root, for a mount namespace")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(http.server.ThreadingHTTPServer((ADDRESS, 0), _Handler))
            for _ in range(3)
        ]
        for server, name in zip(servers[1:], (SITE, ENDED), strict=True):
            certificate = directory / f"{name}.pem"
            certificate.write_bytes(self_signed(name))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield [server.server_port for server in servers]
