# SPDX-License-Identifier: Apache-2.0
"""A server of git repositories for who has a token, and how to read an HTTP request."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from pathlib import Path

from tests.support.programs import program


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the head and the body of a request with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head, await reader.readexactly(length)


class Forge:
    """git's own server over HTTP (git http-backend) for who has the token."""

    def __init__(self, root: Path, token: bytes) -> None:
        self.root = root
        self.token = token

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        wanted = base64.b64encode(b"x-access-token:" + self.token).decode()
        if f"Basic {wanted}" not in head.decode():
            reply = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n"
            writer.write(reply + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            return
        path, _, query = target.partition("?")
        process = await asyncio.create_subprocess_exec(
            *(program("git"), "http-backend"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": method,
                "REMOTE_USER": "x",
                "CONTENT_TYPE": headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
                "GIT_PROTOCOL": headers.get("git-protocol", ""),
            },
        )
        output, _ = await process.communicate(body)
        cgi, _, content = output.partition(b"\r\n\r\n")
        ok = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n" % len(content)
        writer.write(ok + cgi + b"\r\n\r\n" + content)
