# SPDX-License-Identifier: Apache-2.0
"""Output, files and images of a real machine as resources, over real MCP."""

from __future__ import annotations

import base64

import pytest
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import BlobResourceContents, ImageContent, ResourceLink, TextResourceContents
from tests.support.server import ERAS, MODERN, text_of
from tests.support.waggle_client import call, connected
from tests.support.waggle_process import Waggle

from waggle.mcp.uris import file_uri

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]

DRAW = """\
import zlib
def chunk(kind, data):
    return (len(data).to_bytes(4, "big") + kind + data
            + zlib.crc32(kind + data).to_bytes(4, "big"))
with open("chart.png", "wb") as file:
    head = bytes([0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0])
    file.write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head)
               + chunk(b"tEXt", b"a\\0" + ERA)
               + chunk(b"IDAT", zlib.compress(bytes(2))) + chunk(b"IEND", b""))
"""


@pytest.mark.parametrize("era", ERAS)
async def test_a_chart_is_shown_and_is_a_resource(server: Waggle, python: str, era: str) -> None:
    async with connected(server, era) as client:
        code = f"ERA = {era!r}.encode()\n{DRAW}"
        result = await client.call_tool("execute", {"environment_id": python, "code": code})
        assert "[image /home/sandbox/chart.png, image/png, " in text_of(result)
        (image,) = [block for block in result.content if isinstance(block, ImageContent)]
        (link,) = [block for block in result.content if isinstance(block, ResourceLink)]
        assert (image.mime_type, link.mime_type) == ("image/png", "image/png")
        (content,) = (await client.read_resource(link.uri)).contents
        assert isinstance(content, BlobResourceContents)
        assert content.blob == image.data
        assert era.encode() in base64.b64decode(content.blob)
        read = {"environment_id": python, "path": "chart.png"}
        blocks = (await client.call_tool("read_file", read)).content
        assert image.data in [block.data for block in blocks if isinstance(block, ImageContent)]


async def test_a_stream_resource_notifies_and_has_all_output(server: Waggle, shell: str) -> None:
    code = "echo first; read line; seq 100000; echo $line"
    async with connected(server, MODERN) as client:
        started = await call(
            client,
            "run_command",
            environment_id=shell,
            command=f"mkfifo /tmp/go; ({code}) < /tmp/go",
            background=True,
        )
        uri = f"waggle://environments/{shell}/executions/{started['job_id']}/stdout"
        async with client.listen(resource_subscriptions=[uri]) as events:
            go = "echo 'the end' > /tmp/go"
            await call(client, "run_command", environment_id=shell, command=go)
            assert await anext(events) == ResourceUpdated(uri)
        job = {"environment_id": shell, "job_id": started["job_id"]}
        assert (await call(client, "wait_job", **job))["exit_code"] == 0
        text, following = "", 0
        while following is not None:
            (content,) = (await client.read_resource(f"{uri}?offset={following}")).contents
            assert isinstance(content, TextResourceContents)
            text += content.text
            following = dict(content.meta or {})["waggle/page"]["next_offset"]
        numbers = "".join(f"{number}\n" for number in range(1, 100_001))
        assert text == f"first\n{numbers}the end\n"
        (found,) = (await client.read_resource(f"{uri}?search=the%20end")).contents
        assert isinstance(found, TextResourceContents)
        assert found.text == f"{len(text) - 8}: the end"


async def test_a_file_with_a_hostile_name_is_a_resource(server: Waggle, shell: str) -> None:
    path = "/tmp/a b?c=1&d#e%41/ü\n[x].txt"
    async with connected(server) as client:
        await call(client, "write_file", environment_id=shell, path=path, content="kept")
        (content,) = (await client.read_resource(file_uri(shell, path))).contents
        assert isinstance(content, TextResourceContents)
        assert content.text == "kept"
