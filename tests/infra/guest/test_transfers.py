# SPDX-License-Identifier: Apache-2.0
"""Files of a guest in parts, and directories in pages, through the agent's client."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests.support.agent_peer import GOOD, Request, error, greeted, paired, result

from waggle.domain.errors import GuestLost, TooLarge
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.guest.protocol import ErrorCode

pytestmark = pytest.mark.anyio


class Disk:
    """The files of an agent, with the numbers of requests under way at the same time."""

    def __init__(self, **files: bytes) -> None:
        self.files = {f"/{name}": bytearray(data) for name, data in files.items()}
        self.part = 262_144
        self.most = self.room = 1 << 30
        self.offsets: list[object] = []

    def __call__(self, request: Request) -> bytes:
        params = request["params"]
        self.offsets.append(params.get("offset"))
        if request["method"] == "file_write":
            return self._write(request, params)
        content, start = self.files[params["path"]], params["offset"]
        length = min(params.get("length", self.part), self.part)
        data = bytes(content[start : start + length])
        said = {
            "data": base64.b64encode(data).decode(), "end": start + length >= len(content),
            "size": len(content), "mode": 0o644, "modified": 0,
        }  # fmt: skip
        return result(request, said)

    def _write(self, request: Request, params: dict[str, Any]) -> bytes:
        data = base64.b64decode(params["data"])
        if params.get("offset") is None:
            self.files[params["path"]] = bytearray()
        content, start = self.files[params["path"]], params.get("offset") or 0
        data = data[: min(self.most, max(0, self.room - start))]
        if not data and params["data"]:
            said = f"{params['path']}: No space left on device"
            return error(request, ErrorCode.FAILED, said, data={"errno": "ENOSPC"})
        content.extend(bytes(max(0, start - len(content))))
        content[start : start + len(data)] = data
        return result(request, {"written": len(data), "size": len(content)})


BIG = bytes(range(256)) * 9_001


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 3 * 262_144, len(BIG)])
async def test_a_file_is_read_in_parts(size: int) -> None:
    disk = Disk(a=BIG[:size])
    async with paired(greeted(disk)) as (client, _):
        assert await client.read_file("/a") == BIG[:size]
    assert len(disk.offsets) == max(1, -(-size // disk.part))


async def test_parts_may_be_as_short_as_a_policy_wants() -> None:
    disk = Disk(a=BIG[:5_000])
    disk.part = 300
    async with paired(greeted(disk)) as (client, _):
        assert await client.read_file("/a") == BIG[:5_000]
        with pytest.raises(TooLarge):
            await client.read_file("/a", limit=4_999)
        assert await client.read_file("/a", limit=5_000) == BIG[:5_000]


async def test_a_file_that_shrinks_meanwhile_ends_early() -> None:
    disk = Disk(a=BIG)

    def reply(request: Request) -> bytes:
        answer = disk(request)
        del disk.files["/a"][300_000:]
        return answer

    async with paired(greeted(reply)) as (client, _):
        assert await client.read_file("/a") == BIG[:300_000]


@pytest.mark.parametrize("size", [0, 1, 180_224, 180_225, len(BIG)])
async def test_a_file_is_written_in_parts(size: int) -> None:
    disk = Disk(a=b"old and long")
    async with paired(greeted(disk)) as (client, _):
        await client.write_file("/a", BIG[:size])
    assert disk.files["/a"] == BIG[:size]
    assert disk.offsets[0] is None


async def test_a_busy_agent_is_asked_again() -> None:
    """As with a policy that allows fewer requests at the same time than there are parts."""
    disk, busy = Disk(a=BIG), list[int]()

    def reply(request: Request) -> bytes:
        busy.append(len(busy))
        return disk(request) if len(busy) % 2 else error(request, -32004)

    async with paired(greeted(reply)) as (client, _):
        assert await client.read_file("/a") == BIG
        await client.write_file("/a", BIG[::-1])
    assert disk.files["/a"] == BIG[::-1]


@pytest.mark.parametrize("written", [0, 3])
async def test_a_part_of_which_nothing_or_too_much_is_written_is_an_error(written: int) -> None:
    def reply(request: Request) -> bytes:
        return result(request, {"written": written, "size": written})

    async with paired(greeted(reply)) as (client, peer):
        with pytest.raises(GuestLost, match=f"it wrote {written} of 2 bytes"):
            await client.write_file("/a", b"ab")
        assert peer.methods == ["file_write"]


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_001, 300_000])
async def test_what_was_not_written_of_a_part_is_sent_again(size: int) -> None:
    disk = Disk(a=b"old and long")
    disk.most = max(1, size // 3)
    async with paired(greeted(disk)) as (client, _):
        await client.write_file("/a", BIG[:size], mode=0o600)
    assert disk.files["/a"] == BIG[:size]
    assert disk.offsets[0] is None
    assert None not in disk.offsets[1:]


@pytest.mark.parametrize("room", [0, 1, 180_223, 180_224, 180_225, 500_000])
async def test_a_full_disk_is_named(room: int) -> None:
    disk = Disk()
    disk.room = room
    async with paired(greeted(disk)) as (client, _):
        with pytest.raises(AgentRefused, match="/a: No space left on device") as caught:
            await client.write_file("/a", BIG)
        assert caught.value.data["errno"] == "ENOSPC"


async def test_a_directory_is_listed_in_pages() -> None:
    (entry, _) = GOOD["list_directory"]["entries"]

    def reply(request: Request) -> bytes:
        start = request["params"]["offset"]
        names = [f"f{number}" for number in range(start, min(start + 7, 20))]
        entries = [{**entry, "name": name} for name in names]
        return result(request, {"entries": entries, "more": start + 7 < 20})

    async with paired(greeted(reply)) as (client, _):
        names = [one.name for one in await client.list_directory("/")]
        assert names == [f"f{number}" for number in range(20)]
        assert len(await client.list_directory("/", most=9)) == 9


@pytest.mark.parametrize("data", ["", base64.b64encode(b"x" * 300_000).decode()])
async def test_a_file_without_progress_ends(data: str) -> None:
    part = {**GOOD["file_read"], "data": data, "end": False, "size": 5}
    async with paired(greeted(lambda r: result(r, part))) as (client, _):
        with pytest.raises(GuestLost, match="bytes of a part"):
            await client.read_file("/a")


async def test_a_file_that_claims_to_be_huge_is_refused_at_once() -> None:
    huge = {**GOOD["file_read"], "end": False, "size": 2**53 - 1}
    async with paired(greeted(lambda r: result(r, huge))) as (client, peer):
        with pytest.raises(TooLarge):
            await client.read_file("/a")
        assert len(peer.methods) <= 5


async def test_an_endless_file_ends_at_the_deadline() -> None:
    part = {**GOOD["file_read"], "end": False, "size": 1 << 20}
    async with paired(greeted(lambda r: result(r, part))) as (client, _):
        with pytest.raises(GuestLost, match=r"no answer within 0\.05 s"):
            await client.read_file("/a", seconds=0.05)


async def test_an_endless_directory_ends() -> None:
    endless = {**GOOD["list_directory"], "more": True}
    empty: dict[str, object] = {"entries": [], "more": True}
    async with paired(greeted(lambda r: result(r, endless))) as (client, peer):
        assert len(await client.list_directory("/", most=100)) == 100
        peer.reply = greeted(lambda r: result(r, empty))
        assert await client.list_directory("/") == []
