# SPDX-License-Identifier: Apache-2.0
"""The tools search_files, edit_file, upload_files and download_files as a client sees them."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, ResourceLink, TextContent
from tests.support.fakes import FakeFile
from tests.support.garbage import no_collection, traced
from tests.support.guest import FakeGuest
from tests.support.server import LEGACY, client, serving

from waggle.domain.files.search import Kind, Match, Searched
from waggle.domain.files.tree import TreeEntry, encode
from waggle.mcp.errors import ERROR_META_KEY

pytestmark = pytest.mark.anyio
ENVIRONMENT = "00000000-0000-4000-8000-000000000001"
HOME = "/home/sandbox"


async def begin(agent: Client) -> None:
    assert not (await agent.call_tool("create_environment", {"runtime": "shell"})).is_error


async def call(agent: Client, tool: str, **arguments: Any) -> CallToolResult:
    return await agent.call_tool(tool, {"environment_id": ENVIRONMENT, **arguments})


def message(result: CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


def structured(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, message(result)
    assert result.structured_content is not None
    return result.structured_content


def put(guest: FakeGuest, **files: bytes) -> None:
    for name, data in files.items():
        guest.files[f"{HOME}/{name}"] = FakeFile(data, 0o750)


async def test_a_search_shows_a_file_once_with_all_its_lines() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        put(rig.host.only, a=b"x\nneedle\nneedle", b=b"a needle")
        result = await call(agent, "search_files", content="needle")
        assert message(result).splitlines() == [
            *(f"{HOME}/a:", "2: needle", "3: needle", f"{HOME}/b:", "1: a needle"),
        ]
        assert structured(result)["matches"][2] == {
            "path": f"{HOME}/b",
            "line": 1,
            "text": "a needle",
        }
        cut = structured(await call(agent, "search_files", content="needle", max_results=1))
        assert (cut["stopped_by"], cut["count"]) == ("results", 1)
        assert "max_results was reached" in cut["note"]
        none = await call(agent, "search_files", content="nothing like it")
        assert structured(none) == {"note": f"No match in {HOME}."}
        assert message(none) == f"No match in {HOME}."
        refused = await call(agent, "search_files")
        assert "name, content or both" in message(refused)


async def test_hostile_file_names_are_escaped_and_bounded() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        name = f"{HOME}/a\n\x1b[2J\u202e"
        match = Match(name, Kind.FILE, None, 1, 1, "\x1b]0;x\x07" + "é" * 300)
        rig.host.only.searched = Searched(HOME, (match,) * 1_000)
        result = await call(agent, "search_files", content="x")
        text = message(result)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert f"{HOME}/a\\n\\x1b[2J\\u202e:" in text
        found = structured(result)
        assert found["matches"][0]["path"] == name
        assert found["stopped_by"] == "output"
        assert 10 < found["count"] <= 200
        assert found["count"] + found["more"] == 1_000
        assert len(text) < 100_000


async def test_an_edit_shows_its_diff_and_keeps_the_mode() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        put(rig.host.only, f=b"one\ntwo\n")
        done = await call(agent, "edit_file", path="f", old_text="two", new_text="2")
        assert structured(done)["replacements"] == 1
        assert message(done).endswith("@@ -1,2 +1,2 @@\n one\n-two\n+2")
        assert rig.host.only.files[f"{HOME}/f"] == FakeFile(b"one\n2\n", 0o750)
        failed = await call(agent, "edit_file", path="f", old_text="two", new_text="2")
        assert failed.is_error
        assert "old_text is not in the file" in message(failed)


def archive(**files: bytes) -> str:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return base64.b64encode(out.getvalue()).decode()


async def test_a_tree_is_uploaded_and_downloaded() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        up = await call(agent, "upload_files", path="p", archive=archive(a=b"1", b=b"2" * 900))
        assert structured(up)["files"] == 2
        assert rig.host.only.files[f"{HOME}/p/a"].data == b"1"
        down = await call(agent, "download_files", path="p", exclude=["a"])
        assert "content" not in structured(down)
        link = down.content[-1]
        assert isinstance(link, ResourceLink)
        assert link.uri == structured(down)["uri"]
        assert link.size == structured(down)["size"]
        where = {"archive_id": structured(down)["archive_id"]}
        down = structured(await call(agent, "download_files", path="p", **where))
        data = base64.b64decode(down["content"])
        assert hashlib.sha256(data).hexdigest() == down["sha256"]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert tar.getnames() == ["b"]


async def test_the_pages_of_an_archive_are_from_one_moment() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        put(rig.host.only, a=b"before")
        page = structured(await call(agent, "download_files", path=HOME, limit=50))
        data = base64.b64decode(page["content"])
        put(rig.host.only, a=b"after")
        while "next_offset" in page:
            where = {"archive_id": page["archive_id"], "offset": page["next_offset"]}
            page = structured(await call(agent, "download_files", path=HOME, limit=50, **where))
            data += base64.b64decode(page["content"])
        assert hashlib.sha256(data).hexdigest() == page["sha256"]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            file = tar.extractfile("a")
            assert file is not None
            assert file.read() == b"before"
        gone = await call(agent, "download_files", path=HOME, archive_id="0" * 16)
        assert "no such archive any more" in message(gone)
        beyond = await call(
            agent, "download_files", path=HOME, archive_id=page["archive_id"], offset=10**9
        )
        assert "has only" in message(beyond)


async def test_a_partial_upload_lists_the_failed_entries() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        rig.host.only.directories.add(f"{HOME}/b")
        result = await call(agent, "upload_files", archive=archive(a=b"1", b=b"2"))
        assert result.is_error
        assert result.meta is not None
        assert result.meta[ERROR_META_KEY]["code"] == "partial_upload"
        assert "Wrote 1 files" in message(result)
        assert "1 entries failed: b:" in message(result)
        assert result.structured_content is not None
        assert result.structured_content["failed"] == 1
        assert result.structured_content["error"]["code"] == "partial_upload"


async def test_a_hostile_guest_or_client_writes_nothing() -> None:
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        before = dict(rig.host.only.files)
        bad = await call(agent, "upload_files", archive=archive(**{"ok": b"", "../x": b""}))
        assert "climbs out with" in message(bad)
        assert rig.host.only.files == before
        assert "base64" in message(await call(agent, "upload_files", archive="%"))
        rig.host.only.packed = encode(TreeEntry(Kind.FILE, b"../../x", data=b"evil"))
        down = structured(await call(agent, "download_files", path=HOME))
        assert down["left_out_count"] == 1
        rig.host.only.packed = b"nonsense"
        assert "an invalid answer" in message(await call(agent, "download_files", path=HOME))


async def test_the_memory_of_a_refused_upload_is_freed_at_once() -> None:
    """Otherwise repeated uploads would fill the memory until the garbage collector runs."""
    size, count = 1 << 20, 8
    async with serving() as rig, client(rig, LEGACY) as agent:
        await begin(agent)
        no_archive = base64.b64encode(bytes(size)).decode()

        async def refused() -> None:
            assert (await call(agent, "upload_files", archive=no_archive)).is_error

        await refused()
        with no_collection(), traced() as more:
            for _ in range(count):
                await refused()
            assert more() < count * size / 2
