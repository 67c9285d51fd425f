# SPDX-License-Identifier: Apache-2.0
"""The client of a VMM that does not read what it is sent, or hangs up before, and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.vmm_server import heard, speaking

from waggle.infra.vmm import firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import VmmLost, VmmRefused
from waggle.infra.vmm.exchange import BODY_BYTES
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]
INFO = b'{"app_name":"Firecracker","id":"x","state":"Running","vmm_version":"1.12.1"}'
OK = b"HTTP/1.1 200 \r\n"


def sized(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def contents(size: int) -> firecracker.MmdsContentsObject:
    return firecracker.MmdsContentsObject({"a": "x" * size})


async def test_a_request_that_is_not_read(tmp_path: Path) -> None:
    async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with speaking(tmp_path, deaf) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, Version(1, 12, 1), seconds=0.1)
        with pytest.raises(VmmLost, match="took more than"):
            await client.call(firecracker.PUT_MMDS, contents(4 * BODY_BYTES))


@pytest.mark.parametrize("answers", [True, False])
async def test_a_vmm_that_hangs_up_before_it_has_read(answers: bool, tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answers:
            writer.write(sized(b'{"error": "too large"}', b"HTTP/1.1 400 \r\n"))

    async with speaking(tmp_path, script) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, Version(1, 12, 1))
        with pytest.raises(VmmRefused if answers else VmmLost, match=r"too large|broke|without"):
            await client.call(firecracker.PUT_MMDS, contents(4 * BODY_BYTES))


async def test_a_client_goes_on_after_each_fault(tmp_path: Path) -> None:
    faults = iter([b"", OK, sized(b"[]"), sized(b"no", b"HTTP/1.1 500 \r\n"), b"nonsense\r\n\r\n"])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(next(faults, sized(INFO)))

    async with speaking(tmp_path, script) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, Version(1, 12, 1))
        for _ in range(5):
            with pytest.raises((VmmLost, VmmRefused)):
                await client.call(firecracker.DESCRIBE_INSTANCE)
        assert (await client.call(firecracker.DESCRIBE_INSTANCE)).state == "Running"
