# SPDX-License-Identifier: Apache-2.0
"""A program for a real guest: HTTP, event streams and websockets on the given addresses.

Runs as `python3 -c` inside the machine, so it uses the standard library of Python 3.8 only.
`POST /echo` returns its body, `GET /events` three events, `GET /ws` is a websocket that echoes
small texts; everything else returns the request's Host and X-Forwarded-Host.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.split("\r\n")
    fields = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
    path = line.split()[1]
    if path == "/echo":
        body = await reader.readexactly(int(fields["content-length"]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
    elif path == "/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(3):
            writer.write(b"data: %d\n\n" % number)
            await writer.drain()
    elif path == "/ws":
        await websocket(fields, reader, writer)
    else:
        text = f"{fields.get('host')} {fields.get('x-forwarded-host')}"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text.encode())
    writer.close()


async def websocket(
    fields: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    key = fields["sec-websocket-key"].encode()
    digest = hashlib.sha1(key + GUID).digest()  # noqa: S324 - as the protocol says
    accept = base64.b64encode(digest)
    writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
    while True:
        first, size = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size & 0x7F)
        plain = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        writer.write(bytes([first, len(plain)]) + plain)
        if first & 0xF == 8:
            return


async def main() -> None:
    for place in sys.argv[1:]:
        host, _, port = place.rpartition(":")
        await asyncio.start_server(serve, host, int(port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
