# SPDX-License-Identifier: Apache-2.0
"""8 MiB in and out: through MCP's write_file and read_file, and through plain SFTP."""

from __future__ import annotations

import base64
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from mcp import Client

from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import environment, serving, ssh_into
from benchmarks.table import Result
from waggle.cli.client import call, connected

ROUNDS = 7
SIZE = 8 << 20
PAGE_BYTES = 360_000
"""Page size of a client that accepts events of 1 MiB."""
OURS, THEIRS = "/home/sandbox/ours", "/home/sandbox/theirs"


@dataclass(frozen=True, slots=True)
class Content:
    """The same bytes for both sides: a string for MCP, a local file for SFTP."""

    data: bytes
    text: str
    encoding: str
    local: Path


def contents(directory: Path) -> dict[str, Content]:
    """Make the transferred contents, by their names in the rows."""
    text = "".join(f"line {number}: a text of ordinary lines\n" for number in range(SIZE // 32))
    text = text[:SIZE]
    noise = random.Random(8).randbytes(SIZE)
    made = {
        "text": Content(text.encode(), text, "utf-8", directory / "text"),
        "base64": Content(noise, base64.b64encode(noise).decode(), "base64", directory / "base64"),
    }
    for content in made.values():
        content.local.write_bytes(content.data)
    return made


async def measure(options: Options) -> list[Result]:
    """Measure the rows `write-...` and `read-...`."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="waggle-files-") as name:
        async with (
            serving() as server,
            connected(server.url) as client,
            environment(client, "python") as made,
            ssh_into(server, made) as ssh,
            ssh.start_sftp_client() as sftp,
        ):
            for kind, content in contents(Path(name)).items():
                side = Sides(client, made.id, sftp, content)
                seconds = await interleave(
                    {
                        f"write_file {kind}": side.write_file,
                        f"put {kind}": side.put,
                        f"read_file {kind}": side.read_file,
                        f"get {kind}": side.get,
                    },
                    rounds=options.rounds or ROUNDS,
                    tick=options.tick,
                )
                ours, put, read, get = seconds.values()
                results.append(ratio(f"write-{kind}", compare(ours, put)))
                results.append(ratio(f"read-{kind}", compare(read, get)))
    return results


@dataclass(frozen=True, slots=True)
class Sides:
    """The four transfers of one content; each returns its seconds."""

    client: Client
    environment_id: str
    sftp: asyncssh.SFTPClient
    content: Content

    async def write_file(self) -> float:
        began = time.perf_counter()
        written = await call(
            self.client,
            "write_file",
            environment_id=self.environment_id,
            path=OURS,
            content=self.content.text,
            encoding=self.content.encoding,
        )
        took = time.perf_counter() - began
        self._require(written["bytes_written"] == SIZE)
        return took

    async def put(self) -> float:
        began = time.perf_counter()
        await self.sftp.put(str(self.content.local), THEIRS)
        return time.perf_counter() - began

    async def read_file(self) -> float:
        """Read all pages, one call after the other, and decode their content to bytes."""
        began = time.perf_counter()
        parts: list[bytes] = []
        offset: int | None = 0
        while offset is not None:
            page = await call(
                self.client,
                "read_file",
                environment_id=self.environment_id,
                path=OURS,
                encoding=self.content.encoding,
                offset=offset,
                limit=PAGE_BYTES,
            )
            text = str(page["content"])
            is_text = "encoding" not in page
            parts.append(text.encode() if is_text else base64.b64decode(text))
            offset = page.get("next_offset")
        took = time.perf_counter() - began
        self._require(b"".join(parts) == self.content.data)
        return took

    async def get(self) -> float:
        target = self.content.local.with_suffix(".back")
        began = time.perf_counter()
        await self.sftp.get(THEIRS, str(target))
        took = time.perf_counter() - began
        self._require(target.read_bytes() == self.content.data)
        return took

    def _require(self, condition: bool) -> None:
        if not condition:
            raise RuntimeError("the transfer changed the content")
