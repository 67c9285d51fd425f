# SPDX-License-Identifier: Apache-2.0
"""A hostile server for TLS that the proxy ends, and the settings that make it the host of a secret.

`python -m benchmarks.attacks.upstream CHAIN` serves at ADDRESS until it is ended, which needs root.
Over HTTP/1.1 each path is an answer without an end, over HTTP/2 every second connection floods.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import zlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from tests.support.authorities import Authority

HOST, ADDRESS, SECRET = "hostile.test", "127.77.0.2", "hostile"
_HEAD = b"HTTP/1.1 200 OK\r\n"
_SECRETS = f"""[secrets.{SECRET}]
variable = "HOSTILE_TOKEN"
hosts = ["{HOST}"]
value = "0123456789abcdef"
"""
_PACKED = zlib.compressobj(9, wbits=31)
_BOMB = _PACKED.compress(bytes(64 << 20)) + _PACKED.flush()
_ANSWERS = {
    b"gzip": (_HEAD + b"Content-Encoding: gzip\r\n\r\n", _BOMB),
    b"interim": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
    b"heads": (_HEAD, b"X-Header: value\r\n" * 1000),
    b"slow": (_HEAD + b"\r\n", b"x"),
    b"body": (_HEAD + b"\r\n", bytes(1 << 16)),
}
_ACK = b"\0\0\0\4\1\0\0\0\0"
_PINGS = (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 100
_DATA = b"\0\x40\0\0\0"


@contextlib.asynccontextmanager
async def hostile_upstream(place: Path) -> AsyncGenerator[Mapping[str, str]]:
    """Serve for the length of the block; yield the settings of the server that is attacked."""
    authority = Authority()
    chain, bundle, secrets = place / "chain.pem", place / "bundle.pem", place / "secrets.toml"
    chain.write_bytes(authority.chain(HOST))
    bundle.write_bytes(authority.bundle)
    secrets.touch(mode=0o600)
    secrets.write_text(_SECRETS, "ascii")
    argv = ("nice", "-n", "19", sys.executable, "-m", "benchmarks.attacks.upstream", str(chain))
    process = await asyncio.create_subprocess_exec(*argv)
    try:
        yield {
            "WAGGLE_SECRETS_FILE": str(secrets),
            "WAGGLE_CA_BUNDLE": str(bundle),
            "WAGGLE_EGRESS_ALLOW_CIDRS": f"{ADDRESS}/32",
        }
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, IndexError, asyncio.IncompleteReadError):
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            await _http2(reader, writer)
        else:
            head = await reader.readuntil(b"\r\n\r\n")
            first, repeated = _ANSWERS.get(head.split(b" ")[1].strip(b"/"), _ANSWERS[b"body"])
            writer.write(first)
            while True:
                writer.write(repeated)
                await writer.drain()
                await asyncio.sleep(1 if len(repeated) == 1 else 0)
    writer.close()


async def _http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with as much as its window takes, and flood now and then."""
    writer.write(b"\0\0\0\4\0\0\0\0\0" + _ACK)
    await reader.readexactly(24)
    requests = 0
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] != 1:
            continue
        requests += 1
        stream = head[5:9]
        writer.write(b"\0\0\1\1\4" + stream + b"\x88")
        if requests <= 4:  # as the proxy's windows are known to allow
            writer.write((_DATA + stream + bytes(16384)) * 15)
        if requests % 50 == 0:
            writer.write(_PINGS)
        await writer.drain()


async def _main(chain: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(_serve, ADDRESS, 443, ssl=context, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
