# SPDX-License-Identifier: Apache-2.0
"""Images: recognized by their content, and returned as images that clients show."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent, ResourceLink
from tests.support.displays import record
from tests.support.fakes import FakeFile
from tests.support.guest import FakeGuest
from tests.support.server import ERAS, client, created, data_of, serving, text_of

from waggle.domain.programs import HOME, ExecutionResult
from waggle.mcp.results.images import MAX_IMAGES, names_image
from waggle.mcp.results.pictures import MAX_IMAGE_BYTES, image_type
from waggle.mcp.uris import file_uri


def png(size: int = 0) -> bytes:
    """Return a PNG of one pixel with an ignored chunk of `size` bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
    pixel = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"junk", b"\0" * size) + pixel + chunk(b"IEND", b"")


SVG = (
    b'<?xml version="1.0"?>\n<!-- a chart > b -->\n<!DOCTYPE svg PUBLIC "x">\n'
    b'<svg xmlns="http://www.w3.org/2000/svg"><text>"3" &lt; 4</text></svg>\n'
)


@pytest.mark.parametrize(
    "data, kind",
    [
        (png(), "image/png"),
        (b"\xff\xd8\xff\xe0....\xff\xd9", "image/jpeg"),
        (b"GIF89a....;", "image/gif"),
        (b"RIFF\x08\0\0\0WEBP....", "image/webp"),
        (SVG, "image/svg+xml"),
        (b"\xef\xbb\xbf <svg/>", "image/svg+xml"),
        (png()[:-20], None),
        (b"\xff\xd8\xff\xe0....", None),
        (b"RIFF\xff\0\0\0WEBP....", None),
        (SVG[:-10], None),
        (b"<!-- <svg></svg>", None),
        (b"<html><svg></svg>", None),
        (b"<svgx></svg>", None),
        (b"", None),
        (b"print('<svg></svg>')", None),
    ],
)
def test_an_image_is_recognized_by_its_content(data: bytes, kind: str | None) -> None:
    assert image_type(data) == kind


@pytest.mark.parametrize(
    "program, named",
    [
        ("plt.savefig('chart')", True),
        (["convert", "a.txt", "b.PNG"], True),
        ("open('x.jpeg', 'wb')", True),
        ("print(6 * 7)", False),
        ("import pngs", False),
    ],
)
def test_a_program_that_names_an_image_file_is_recognized(program: Any, named: bool) -> None:
    assert names_image(program) is named


def images(result: CallToolResult) -> list[tuple[str, bytes]]:
    return [
        (block.mime_type, base64.b64decode(block.data))
        for block in result.content
        if isinstance(block, ImageContent)
    ]


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_read_file_returns_an_image_without_structured_content(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        files = rig.host.only.files

        async def read(path: str, data: bytes) -> CallToolResult:
            files[path] = FakeFile(data, 0o644)
            return await agent.call_tool("read_file", {"environment_id": environment, "path": path})

        result = await read("/tmp/no-suffix", png(300_000))
        assert images(result) == [("image/png", png(300_000))]
        assert result.structured_content is None
        assert text_of(result) == f"/tmp/no-suffix: image/png, {len(png(300_000))} bytes."
        assert links(result) == [file_uri(environment, "/tmp/no-suffix")]
        arguments = {"environment_id": environment, "path": "/tmp/no-suffix", "encoding": "base64"}
        result = await agent.call_tool("read_file", arguments)
        assert images(result) == []
        assert base64.b64decode(data_of(result)["content"]) == png(300_000)[:24_000]

        result = await read("/tmp/chart.svg", SVG)
        assert images(result) == [("image/svg+xml", SVG)]
        assert SVG.decode() in text_of(result)

        result = await read("/tmp/false.png", b"\0 no png")
        assert images(result) == []
        assert data_of(result)["mime_type"] == "application/octet-stream"

        result = await read("/tmp/large.png", png(MAX_IMAGE_BYTES))
        assert images(result) == []
        assert data_of(result)["uri"] == file_uri(environment, "/tmp/large.png")

        wide = b"<svg>" + b'"' * 200_000 + b"</svg>"
        result = await read("/tmp/wide.svg", wide)
        assert images(result) == [("image/svg+xml", wide)]
        assert "the next page begins at offset 32000" in text_of(result)

        blob = (await agent.read_resource(file_uri(environment, "/tmp/no-suffix"))).contents[0]
        assert blob.mime_type == "image/png"


def links(result: CallToolResult) -> list[str]:
    return [block.uri for block in result.content if isinstance(block, ResourceLink)]


def draws(guest: FakeGuest, pictures: dict[str, bytes], printed: bytes = b"") -> None:
    """Make the program `draw` write files into its directory."""

    async def program(_command: object, into: Any) -> ExecutionResult:
        for name, data in pictures.items():
            await guest.write_file(f"{HOME}/{name}", data, 0o644)
        into.stdout.feed(printed)
        kept = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*kept, exit_code=0, signal=None, timed_out=False, duration=0.1)

    guest.programs["draw"] = program


@pytest.mark.parametrize("era", ERAS)
async def test_images_that_a_program_wrote_are_shown(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        guest = rig.host.only
        guest.files[f"{HOME}/old.png"] = FakeFile(png(), 0o644)
        written = {"chart.png": png(5), "plot.SVG": SVG, "no.png": b"nothing", "data.csv": b"1"}
        draws(guest, written)
        arguments = {"environment_id": environment, "command": ["draw", "chart.png"]}
        result = await agent.call_tool("run_command", arguments)
        assert images(result) == [("image/png", png(5)), ("image/svg+xml", SVG)]
        assert f"[image {HOME}/chart.png, image/png, {len(png(5))} bytes]" in text_of(result)
        assert result.structured_content is None
        content = (await agent.read_resource(links(result)[0])).contents[0]
        assert content.mime_type == "image/png"
        # The files are not new, so they are not shown again.
        again = await agent.call_tool("run_command", arguments)
        assert images(again) == []
        assert "images" not in data_of(again)


async def test_images_are_shown_only_if_wanted_and_the_program_has_ended() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        guest = rig.host.only
        draws(guest, {"chart.png": png()})
        quiet = {"environment_id": environment, "command": ["draw"]}
        assert images(await agent.call_tool("run_command", quiet)) == []
        del guest.files[f"{HOME}/chart.png"]
        no = {"environment_id": environment, "command": ["draw", "x.png"], "images": False}
        assert images(await agent.call_tool("run_command", no)) == []
        del guest.files[f"{HOME}/chart.png"]
        assert len(images(await agent.call_tool("run_command", {**quiet, "images": True}))) == 1
        code = {"environment_id": environment, "code": "timeout", "images": True}
        result = await agent.call_tool("execute", code)
        assert result.is_error
        assert images(result) == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("how", [{"wait_seconds": 0.01}, {"background": True}])
async def test_images_of_a_job_are_shown_to_the_call_that_waits_for_its_end(
    era: str, how: dict[str, Any]
) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        guest = rig.host.only
        guest.files[f"{HOME}/old.png"] = FakeFile(png(), 0o644)
        arguments = {"environment_id": environment, "code": "hang", "images": True, **how}
        started = data_of(await agent.call_tool("execute", arguments))
        assert started["status"] == "running"
        guest.files[f"{HOME}/chart.png"] = FakeFile(png(5), 0o644)
        job = {"environment_id": environment, "job_id": started["job_id"]}
        early = await agent.call_tool("read_job", {**job, "wait_seconds": 0})
        assert images(early) == []
        guest.release.set()
        for tool in ("read_job", "wait_job"):
            ended = await agent.call_tool(tool, {**job, "wait_seconds": 20})
            assert images(ended) == [("image/png", png(5))]
            assert "exit 0" in text_of(ended)
            guest.files[f"{HOME}/later.png"] = FakeFile(png(6), 0o644)  # by another program


async def test_files_are_only_listed_if_as_many_pictures_were_displayed() -> None:
    """`plt.savefig` and `plt.show` of one figure are one picture."""
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        shown = record({"image/png": png(5)})

        async def program(_command: object, into: Any) -> ExecutionResult:
            await rig.host.only.write_file(f"{HOME}/chart.png", png(7), 0o644)
            into.display.feed(shown)
            kept = into.stdout.output(), into.stderr.output()
            return ExecutionResult(*kept, exit_code=0, signal=None, timed_out=False, duration=0.1)

        rig.host.only.programs["draw"] = program
        arguments = {"environment_id": environment, "command": ["draw"], "images": True}
        result = await agent.call_tool("run_command", arguments)
        assert images(result) == [("image/png", png(5))]
        assert f"[image {HOME}/chart.png, image/png, {len(png(7))} bytes]" in text_of(result)


async def test_images_of_a_hostile_program_stay_within_the_budget() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        many = {f"{n:02}.png": png(200_000 + n) for n in range(30)}
        draws(rig.host.only, {"a\nb\x1b.png": png(9), **many}, printed=b"\x01" * 30_000)
        arguments = {"environment_id": environment, "command": ["draw"], "images": True}
        result = await agent.call_tool("run_command", arguments)
        assert len(json.dumps(result.model_dump(mode="json", by_alias=True))) < 1024 * 1024
        assert text_of(result).count("[image ") == MAX_IMAGES
        assert 0 < len(images(result)) < MAX_IMAGES
        assert f"no room to show {HOME}/02.png: read_file shows it." in text_of(result)
        assert "\x1b" not in text_of(result)


async def test_a_directory_that_cannot_be_listed_does_not_lose_the_output() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        arguments = {"environment_id": environment, "code": "echo x", "images": True}
        for cwd in ("/nowhere", None):
            result = await agent.call_tool("execute", {**arguments, "cwd": cwd})
            assert data_of(result)["stdout"] == "x\n"
