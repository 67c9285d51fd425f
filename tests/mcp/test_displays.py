# SPDX-License-Identifier: Apache-2.0
"""Displays from a guest to a client: in results, in later calls, and as resources."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, CallToolResult, ImageContent, TextResourceContents
from tests.mcp.forms import check
from tests.support.displays import framed, png, record
from tests.support.guest import FakeGuest
from tests.support.server import ERAS, client, created, data_of, serving, text_of

from waggle.domain.programs import ExecutionResult
from waggle.mcp.results.displays import DISPLAYS_META_KEY
from waggle.mcp.results.pages import BASE64_PAGE_BYTES
from waggle.mcp.uris import display_uri, displays_uri

pytestmark = pytest.mark.anyio
CHART: dict[str, Any] = {"type": "bar", "title": "Rain"}
HTML = "<table>ü</table>"
STREAM = (
    record({"text/plain": "a  b", "text/html": HTML}, 7)
    + framed(b"damaged")
    + record(
        {"image/png": png(64, 48), "text/plain": "<Figure>"}, 7, metadata={"w": 1}, chart=CHART
    )
)


def draws(
    guest: FakeGuest, stream: bytes, printed: bytes = b"before\nafter\n", program: str = "draw"
) -> None:
    """Make a program print, and display a stream of records."""

    async def run(_command: object, into: Any) -> ExecutionResult:
        into.stdout.feed(printed)
        into.display.feed(stream[:10])
        into.display.feed(stream[10:])
        kept = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*kept, exit_code=0, signal=None, timed_out=False, duration=0.1)

    guest.programs[program] = run


def pictures(result: CallToolResult) -> list[bytes]:
    return [base64.b64decode(b.data) for b in result.content if isinstance(b, ImageContent)]


@pytest.mark.parametrize("era", ERAS)
async def test_a_program_that_displays_is_answered_with_text_and_pictures(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        draws(rig.host.only, STREAM)
        arguments: dict[str, Any] = {"environment_id": environment, "command": ["draw"]}
        result = await agent.call_tool("run_command", arguments)
        assert pictures(result) == [png(64, 48)]
        assert text_of(result) == (
            "before\na  b\n[picture 3, Rain]\nafter\n[job 1: exit 0]\n"
            "1 display was too large, damaged or too many, and not kept."
        )
        assert (result.meta or {})[DISPLAYS_META_KEY] == [
            {
                "index": 1,
                "mime_types": ["text/plain", "text/html"],
                "uri": display_uri(environment, 1, 1),
            },
            {
                "index": 3,
                "mime_types": ["image/png", "text/plain"],
                "uri": display_uri(environment, 1, 3),
                "chart": CHART,
            },
        ]
        later = {"environment_id": environment, "job_id": 1}
        assert pictures(await agent.call_tool("wait_job", later)) == [png(64, 48)]
        assert data_of(await agent.call_tool("read_job", {**later, "stream": "stdout"})) == {
            "content": "before\nafter\n",
            "exit_code": 0,
            "size": 13,
            "status": "exited",
        }
        assert pictures(await agent.call_tool("kill_job", later)) == []


async def test_a_caller_that_wants_no_pictures_gets_data_from_later_calls_too() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        draws(rig.host.only, STREAM)
        arguments = {"environment_id": environment, "command": ["draw"], "images": False}
        results = [await agent.call_tool("run_command", arguments)]
        later = {"environment_id": environment, "job_id": 1}
        results += [await agent.call_tool(name, later) for name in ("wait_job", "kill_job")]
        for result in results:
            assert pictures(result) == []
            check(arguments, result)
            shown = data_of(result)
            assert shown["charts"] == [{"display": 3, "chart": CHART}]
            assert shown["displays_uri"] == displays_uri(environment, 1)


async def test_a_program_that_only_displays_has_output() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        draws(rig.host.only, record({"text/plain": "42"}), printed=b"")
        arguments = {"environment_id": environment, "command": ["draw"]}
        result = await agent.call_tool("run_command", arguments)
        assert text_of(result) == "42\n[job 1: exit 0]"
        assert data_of(result)["stdout"] == "42\n"


async def test_an_environment_that_is_gone_leaves_pictures_without_links() -> None:
    async with serving() as rig, client(rig) as agent:
        rig.host.prepare = lambda guest: draws(guest, STREAM, program="python")
        result = await agent.call_tool("run_code", {"code": "draw()"})
        assert pictures(result) == [png(64, 48)]
        assert "waggle://" not in text_of(result)
        assert [block.type for block in result.content] == ["text", "image"]


@pytest.mark.parametrize("era", ERAS)
async def test_displays_are_resources(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        draws(rig.host.only, STREAM)
        await agent.call_tool("run_command", {"environment_id": environment, "command": ["draw"]})

        async def read(uri: str) -> TextResourceContents | BlobResourceContents:
            (content,) = (await agent.read_resource(uri)).contents
            return content

        async def text(uri: str) -> tuple[str | None, str]:
            content = await read(uri)
            assert isinstance(content, TextResourceContents)
            return content.mime_type, content.text

        every = displays_uri(environment, 1)
        assert every in [resource.uri for resource in (await agent.list_resources()).resources]
        kind, listed = await text(every)
        assert kind == "application/json"
        assert json.loads(listed) == {
            "displays": [
                {
                    "uri": display_uri(environment, 1, n),
                    "index": n,
                    "stdout_offset": 7,
                    "stderr_offset": 0,
                    "mime_types": types,
                }
                for n, types in ((1, ["text/plain", "text/html"]), (3, ["image/png", "text/plain"]))
            ],
            "dropped": 1,
        }
        _, whole = await text(display_uri(environment, 1, 3))
        assert json.loads(whole) == {
            "index": 3,
            "stdout_offset": 7,
            "stderr_offset": 0,
            "data": {
                "image/png": base64.b64encode(png(64, 48)).decode(),
                "text/plain": "<Figure>",
            },
            "metadata": {"w": 1},
            "chart": CHART,
        }
        assert await text(display_uri(environment, 1, 1, "text/html")) == ("text/html", HTML)
        kind, chart = await text(display_uri(environment, 1, 3, "chart"))
        assert (kind, json.loads(chart)) == ("application/json", CHART)
        blob = await read(display_uri(environment, 1, 3, "image/png"))
        assert isinstance(blob, BlobResourceContents)
        assert (blob.mime_type, base64.b64decode(blob.blob)) == ("image/png", png(64, 48))
        about = json.loads((await text(f"waggle://environments/{environment}"))[1])
        assert about["executions"][0]["displays"] == {"uri": every, "bytes": len(STREAM)}
        for missing in (f"{every}/2", f"{every}/9", f"{every}/1/chart", f"{every}/1/image/png"):
            with pytest.raises(MCPError, match="has no such display"):
                await agent.read_resource(missing)


async def test_a_large_form_comes_in_pages() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        large = png(9, 9, junk=BASE64_PAGE_BYTES)
        draws(rig.host.only, record({"image/png": large, "text/html": "ü" * 300_000}))
        await agent.call_tool("run_command", {"environment_id": environment, "command": ["draw"]})
        for form, wanted in (("image/png", large), ("text/html", ("ü" * 300_000).encode())):
            uri, data, offset = display_uri(environment, 1, 1, form), b"", 0
            while offset is not None:
                (part,) = (await agent.read_resource(f"{uri}?offset={offset}")).contents
                wire = json.dumps(part.model_dump(mode="json", by_alias=True))
                assert len(wire) < 1024 * 1024
                if isinstance(part, BlobResourceContents):
                    data += base64.b64decode(part.blob)
                else:
                    data += part.text.encode()
                offset = (part.meta or {})["waggle/page"]["next_offset"]
            assert data == wanted


async def test_displays_of_a_hostile_program_do_no_harm() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        garbage = (b"\xff" * 50_000, b"\0" * 50_000, framed(b"[" * 100_000), record({}) * 9_000)
        for number, stream in enumerate(garbage, start=1):
            draws(rig.host.only, stream)
            arguments = {"environment_id": environment, "command": ["draw"]}
            result = await agent.call_tool("run_command", arguments)
            assert data_of(result)["stdout"] == "before\nafter\n"
            assert "not kept" in text_of(result)
            (content,) = (await agent.read_resource(displays_uri(environment, number))).contents
            assert isinstance(content, TextResourceContents)
            assert json.loads(content.text)["displays"] == []
