# SPDX-License-Identifier: Apache-2.0
"""A file of 10 MiB, written and read through the tools, in both eras, over real HTTP."""

from __future__ import annotations

import base64
import random

import pytest
from tests.support.server import ERAS, MODERN, client, created, data_of, serving

from waggle.domain.files import MAX_FILE_BYTES

pytestmark = pytest.mark.anyio

SIZE = MAX_FILE_BYTES
PAGES = 10
"""Number of pages read from the start of a text."""
TEXTS = {
    "plain": "waggle\n" * (SIZE // 7) + "\n" * (SIZE % 7),
    "mixed": 'aé€😀"' * (SIZE // 11) + "a" * (SIZE % 11),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("kind", TEXTS)
async def test_a_large_text_is_written_and_read(era: str, kind: str) -> None:
    text = TEXTS[kind]
    async with serving() as rig, client(rig, era) as connected:
        where = {"environment_id": await created(connected), "path": "big.txt"}
        written = await connected.call_tool("write_file", {**where, "content": text})
        assert data_of(written)["bytes_written"] == SIZE
        parts: list[str] = []
        offset: int | None = 0
        while offset is not None:
            page = data_of(await connected.call_tool("read_file", {**where, "offset": offset}))
            parts.append(page["content"])
            assert page["size"] == SIZE
            assert "encoding" not in page
            offset = page.get("next_offset")
            if len(parts) == PAGES:  # read the end without all that is between
                assert offset is not None
                assert text.encode().startswith("".join(parts).encode())
                assert offset == sum(len(part.encode()) for part in parts)
                offset = SIZE - 1_000
    assert text.encode().endswith(parts[-1].encode())
    assert len(parts) == PAGES + 1


@pytest.mark.parametrize("era", ERAS)
async def test_large_bytes_are_written_and_read(era: str) -> None:
    data = random.Random(1).randbytes(SIZE)
    async with serving() as rig, client(rig, era) as connected:
        where = {"environment_id": await created(connected), "path": "big.bin"}
        content = base64.b64encode(data).decode()
        await connected.call_tool("write_file", {**where, "content": content, "encoding": "base64"})
        assert rig.host.only.files["/home/sandbox/big.bin"].data == data
        parts: list[bytes] = []
        offset: int | None = 0
        while offset is not None:
            how = {"offset": offset, "encoding": "base64", "limit": 360_000}
            page = data_of(await connected.call_tool("read_file", {**where, **how}))
            parts.append(base64.b64decode(page["content"]))
            offset = page.get("next_offset")
    assert b"".join(parts) == data


async def test_a_large_file_is_read_in_one_call() -> None:
    data = random.Random(2).randbytes(SIZE)
    async with serving() as rig:
        for era in ERAS:
            limit = None if era != MODERN else 1024 * 1024  # 2026 answers with JSON: no limit
            async with client(rig, era, max_event=limit) as connected:
                where = {"environment_id": await created(connected), "path": "big.bin"}
                content = base64.b64encode(data).decode()
                await connected.call_tool(
                    "write_file", {**where, "content": content, "encoding": "base64"}
                )
                how = {"encoding": "base64", "limit": SIZE}
                page = data_of(await connected.call_tool("read_file", {**where, **how}))
                assert base64.b64decode(page["content"]) == data
                assert "next_offset" not in page


async def test_a_file_over_the_limit_is_refused_in_a_result() -> None:
    async with serving() as rig, client(rig) as connected:
        where = {"environment_id": await created(connected), "path": "big.txt"}
        result = await connected.call_tool("write_file", {**where, "content": "x" * (SIZE + 1)})
        assert result.is_error
        assert result.meta is not None
        assert result.meta["waggle/error"]["code"] == "too_large"
