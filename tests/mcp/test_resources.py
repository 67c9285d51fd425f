# SPDX-License-Identifier: Apache-2.0
"""Resources as a client sees them: reading, pages, search, lists and completion, in both eras."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    ReadResourceResult,
    ResourceTemplateReference,
    TextResourceContents,
)
from tests.support.fakes import FakeFile
from tests.support.server import (
    ERAS,
    LEGACY,
    Rig,
    Setup,
    client,
    created,
    data_of,
    raw,
    request,
    serving,
)

from waggle.domain.access import Owner
from waggle.domain.programs import ExecutionResult
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.resources.listing import EXECUTIONS_LISTED
from waggle.mcp.uris import (
    ARCHIVE_TEMPLATE,
    DISPLAY_TEMPLATE,
    DISPLAYS_TEMPLATE,
    ENVIRONMENT_TEMPLATE,
    FILE_TEMPLATE,
    FORM_TEMPLATE,
    NETWORK_TEMPLATE,
    STREAM_TEMPLATE,
    archive_uri,
    file_uri,
    output_uri,
)
from waggle.service.environments.service import CreateRequest
from waggle.service.files.trees import MAX_KEPT

pytestmark = pytest.mark.anyio

NOWHERE = "00000000-0000-4000-8000-0000000000ff"


async def ran(agent: Client, environment: str, code: str) -> str:
    """Run a program and return the URI of its stdout."""
    result = await agent.call_tool("execute", {"environment_id": environment, "code": code})
    return output_uri(environment, data_of(result)["job_id"], StreamName.STDOUT)


def text_in(result: ReadResourceResult) -> tuple[str, dict[str, Any]]:
    """Return the text of a resource and the page data of its `_meta`."""
    (content,) = result.contents
    assert isinstance(content, TextResourceContents), content
    return content.text, dict(content.meta or {}).get("waggle/page", {})


def bytes_in(result: ReadResourceResult) -> tuple[bytes, dict[str, Any]]:
    (content,) = result.contents
    page = dict(content.meta or {})["waggle/page"]
    if isinstance(content, BlobResourceContents):
        return base64.b64decode(content.blob), page
    return content.text.encode(), page


async def whole(agent: Client, uri: str) -> bytes:
    """Read all pages of a resource and return its bytes."""
    data, offset = b"", 0
    while True:
        part, page = bytes_in(await agent.read_resource(f"{uri}?offset={offset}"))
        assert page["offset"] == offset
        data += part
        if page["next_offset"] is None:
            assert len(data) == page["size"]
            return data
        assert page["next_offset"] > offset
        offset = page["next_offset"]


@pytest.mark.parametrize("era", ERAS)
async def test_the_uri_in_a_result_has_the_whole_stream(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        uri = await ran(agent, environment, "echo begin\nflood 2000000\necho \necho ERROR here")
        first, page = text_in(await agent.read_resource(uri))
        assert first.startswith("begin\nxxx")
        assert page["size"] == 2_000_018
        assert page["next_offset"] == len(first)
        assert page["status"] == "exited"
        assert await whole(agent, uri) == b"begin\n" + b"x" * 2_000_000 + b"\nERROR here\n"


@pytest.mark.parametrize("era", ERAS)
async def test_a_stream_is_read_in_ranges_and_searched(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        uri = await ran(agent, await created(agent), "echo one\necho two 2&3\necho three")
        text, page = text_in(await agent.read_resource(f"{uri}?offset=4&length=3"))
        assert (text, page["offset"], page["next_offset"]) == ("two", 4, 7)
        text, page = text_in(await agent.read_resource(f"{uri}?offset=-6"))
        assert (text, page["next_offset"]) == ("three\n", None)
        text, _ = text_in(await agent.read_resource(f"{uri}?search=2%263"))
        assert text == "4: two 2&3"
        text, _ = text_in(await agent.read_resource(uri.replace("stdout", "stderr")))
        assert text == ""


async def test_a_stream_is_read_while_written_and_binary_data_is_a_blob() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        guest = rig.host.only

        async def program(_command: object, into: Any) -> Any:
            into.stdout.feed("grün".encode()[:3])
            guest.started.set()
            await guest.release.wait()
            into.stdout.feed("grün".encode()[3:] + b"\n\xff\0")
            kept = into.stdout.output(), into.stderr.output()
            return ExecutionResult(*kept, exit_code=0, signal=None, timed_out=False, duration=0.1)

        guest.programs["talk"] = program
        arguments = {"environment_id": environment, "command": ["talk"], "background": True}
        job = data_of(await agent.call_tool("run_command", arguments))["job_id"]
        uri = output_uri(environment, job, StreamName.STDOUT)
        await guest.started.wait()
        text, page = text_in(await agent.read_resource(uri))
        assert (text, page["next_offset"], page["size"]) == ("gr", 2, 3)
        assert page["status"] == "running"
        guest.release.set()
        await agent.call_tool("wait_job", {"environment_id": environment, "job_id": 1})
        assert await whole(agent, uri) == "grün\n".encode() + b"\xff\0"
        # An offset inside a character is moved to the next one.
        data, page = bytes_in(await agent.read_resource(f"{uri}?offset=-5&length=2"))
        assert (data, page["offset"]) == (b"n", 4)


@pytest.mark.parametrize("era", ERAS)
async def test_files_of_the_guest_are_resources(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        names = ["/tmp/notes.txt", "/tmp/a b?c#d%41.txt", "/tmp/täst/[x]&y=1"]
        for name in names:
            rig.host.only.files[name] = FakeFile(f"in {name}".encode(), 0o644)
            text, _ = text_in(await agent.read_resource(file_uri(environment, name)))
            assert text == f"in {name}"
        notes = f"waggle://environments/{environment}/files/tmp/notes.txt"
        text, page = text_in(await agent.read_resource(f"{notes}?offset=3&length=4"))
        assert (text, page) == ("/tmp", {"offset": 3, "next_offset": 7, "size": 17})
        text, _ = text_in(await agent.read_resource(notes.replace("files/", "files//")))
        assert text == "in /tmp/notes.txt"
        big = bytes(range(256)) * 4_000
        rig.host.only.files["/tmp/big"] = FakeFile(big, 0o644)
        assert await whole(agent, file_uri(environment, "/tmp/big")) == big


@pytest.mark.parametrize("era", ERAS)
async def test_an_archive_is_a_resource_while_it_is_kept(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        arguments = {"environment_id": environment, "path": "."}
        noise = random.Random(1)
        packed: list[dict[str, Any]] = []
        content: list[ContentBlock] = []
        for _ in range(MAX_KEPT + 1):
            rig.host.only.files["/home/sandbox/a"] = FakeFile(noise.randbytes(500_000), 0o644)
            result = await agent.call_tool("download_files", {**arguments, "limit": 1_000})
            packed.append(data_of(result))
            content = result.content
        old, *_, new = packed
        data = await whole(agent, new["uri"])
        assert hashlib.sha256(data).hexdigest() == new["sha256"]
        assert len(data) == new["size"] > 500_000
        # The page inside a result has its own URI.
        (held,) = [block for block in content if isinstance(block, EmbeddedResource)]
        assert isinstance(held.resource, BlobResourceContents)
        again, page = bytes_in(await agent.read_resource(held.resource.uri))
        assert again == base64.b64decode(held.resource.blob) == data[:1_000]
        assert page["next_offset"] == 1_000
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(f"{new['uri']}?offset={new['size'] + 1}")
        assert refused.value.error.code == -32602
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(old["uri"])
        assert refused.value.error.data["waggle/error"]["code"] == "archive_not_found"
        await agent.call_tool("destroy_environment", {"environment_id": environment})
        with pytest.raises(MCPError):
            await agent.read_resource(new["uri"])


async def test_an_archive_of_another_owner_cannot_be_read_by_its_id() -> None:
    async with serving() as rig, client(rig) as agent:
        theirs = await foreign(rig)
        archive = await rig.services.trees.download(theirs, ".", owner=Owner("somebody else"))
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(archive_uri(theirs, archive.id))
        assert refused.value.error.data["waggle/error"]["code"] == "not_found"
        mine = await created(agent)
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(archive_uri(mine, archive.id))
        assert refused.value.error.data["waggle/error"]["code"] == "archive_not_found"


@pytest.mark.parametrize("era", ERAS)
async def test_readable_resources_are_listed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        for number in range(EXECUTIONS_LISTED + 2):
            await ran(agent, environment, f"echo {number}\nerr oops" if number == 11 else "exit 0")
        listed = (await agent.list_resources()).resources
        about, newest, errors, *rest = listed
        assert about.uri == f"waggle://environments/{environment}"
        assert newest.uri == f"{about.uri}/executions/12/stdout"
        assert (newest.size, newest.mime_type) == (3, "text/plain")
        assert errors.uri == f"{about.uri}/executions/12/stderr"
        assert len(rest) == EXECUTIONS_LISTED - 1
        for resource in listed:
            await agent.read_resource(resource.uri)
        content = json.loads(text_in(await agent.read_resource(about.uri))[0])
        assert content["status"] == "running"
        assert content["executions"][0]["stdout"] == {"uri": newest.uri, "bytes": 3}
        templates = (await agent.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == [
            ENVIRONMENT_TEMPLATE,
            NETWORK_TEMPLATE,
            STREAM_TEMPLATE,
            DISPLAYS_TEMPLATE,
            DISPLAY_TEMPLATE,
            FORM_TEMPLATE,
            FILE_TEMPLATE,
            ARCHIVE_TEMPLATE,
        ]


async def test_a_long_list_has_pages() -> None:
    async with serving(Setup(max_environments=45)) as rig, client(rig) as agent:
        made = [await created(agent) for _ in range(45)]
        seen: list[str] = []
        page = await agent.list_resources()
        seen += [resource.uri for resource in page.resources]
        # A removal between two pages does not shift the next page.
        await agent.call_tool("destroy_environment", {"environment_id": made[0]})
        while page.next_cursor:
            page = await agent.list_resources(cursor=page.next_cursor)
            seen += [resource.uri for resource in page.resources]
        assert seen == [f"waggle://environments/{identity}" for identity in made]


@pytest.mark.parametrize("cursor", ["x", "ü", "A" * 400, "////"])
async def test_a_malformed_cursor_is_refused(cursor: str) -> None:
    async with serving() as rig, client(rig) as agent:
        with pytest.raises(MCPError) as refused:
            await agent.list_resources(cursor=cursor)
        assert refused.value.error.code == -32602


@pytest.mark.parametrize("era", ERAS)
async def test_arguments_of_templates_are_completed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        first, second = await created(agent), await created(agent)
        await ran(agent, second, "exit 0")
        of = ResourceTemplateReference(type="ref/resource", uri=STREAM_TEMPLATE)

        async def completed(name: str, typed: str, chosen: dict[str, str] | None = None) -> Any:
            argument = {"name": name, "value": typed}
            return (await agent.complete(of, argument, chosen)).completion.values

        assert await completed("id", first[:4]) == [first, second]
        assert await completed("id", second) == [second]
        assert await completed("n", "", {"id": second}) == ["1"]
        assert await completed("n", "", {"id": NOWHERE}) == []
        assert await completed("stream", "std") == ["stdout", "stderr"]
        assert await completed("path", "/") == []


async def foreign(rig: Rig) -> str:
    """Create an environment of another owner with one job, and return its id."""
    environment = await rig.services.environments.create(
        CreateRequest(runtime=RuntimeName.SHELL), owner=Owner("somebody else")
    )
    job = await rig.services.execution.execute(
        environment.id, "echo x", owner=Owner("somebody else")
    )
    await job.wait(5)
    return environment.id


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "rest", ["", "/executions/1/stdout", "/files/tmp/x", "/archives/0123456789abcdef"]
)
async def test_another_owners_resource_is_refused_like_a_missing_one(era: str, rest: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        theirs = await foreign(rig)
        said: list[Any] = []
        for environment in (theirs, NOWHERE):
            with pytest.raises(MCPError) as refused:
                await agent.read_resource(f"waggle://environments/{environment}{rest}")
            said.append(json.dumps(refused.value.error.model_dump()).replace(environment, "X"))
        assert said[0] == said[1]
        assert refused.value.error.code == (-32002 if era == LEGACY else -32602)
        assert refused.value.error.data["waggle/error"]["code"] == "not_found"
        assert refused.value.error.data["waggle/error"]["hint"]
        assert (await agent.list_resources()).resources == []


@pytest.mark.parametrize(
    "rest, code",
    [
        ("/executions/9/stdout", -32002),
        ("/executions/0/stdout", -32002),
        ("/executions/1/stdin", -32002),
        ("/executions/1", -32002),
        ("/files/", -32002),
        ("/files/%00", -32002),
        ("/files/%ff", -32002),
        ("/files/tmp/none", -32002),
        ("/archives/0123456789abcdef", -32002),
        ("/archives/0123456789ABCDEF", -32002),
        ("/archives/../x", -32002),
        ("/archives/", -32002),
        ("/archives/0123456789abcdef?offset=-1", -32602),
        ("/archives/0123456789abcdef?search=x", -32602),
        ("/nothing", -32002),
        ("?x=1", -32002),
        ("/executions/1/stdout?offset=x", -32602),
        ("/executions/1/stdout?length=0", -32602),
        ("/executions/1/stdout?offset=1&offset=2", -32602),
        ("/executions/1/stdout?search=" + "x" * 201, -32602),
        ("/files/tmp/x?offset=-1", -32602),
        ("/files/tmp/x?offset=99", -32602),
        ("/files/tmp/x?search=y", -32602),
        ("/files/tmp", -32603),
    ],
)
async def test_a_mistake_is_refused_with_a_hint(rest: str, code: int) -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        await ran(agent, environment, "echo x")
        rig.host.only.files["/tmp/x"] = FakeFile(b"x", 0o644)
        uri = f"waggle://environments/{environment}{rest}"
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(uri)
        assert refused.value.error.code == code
        assert refused.value.error.data["uri"] == uri[:300]


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "waggle:",
        "waggle://environments",
        "waggle://environments//files/x",
        "waggle://environments/../files/etc/passwd",
        "file:///etc/passwd",
        "\ud800",
        "waggle://environments/%",
        "waggle://environments/" + "a" * 100_000,
        "javascript:alert(1)\r\nSet-Cookie: x",
    ],
)
async def test_an_unknown_uri_is_not_found_in_bare_http(uri: str) -> None:
    async with serving() as rig, raw(rig) as http:
        body = json.dumps(request("resources/read", {"uri": uri}))
        answer = await http.post("/mcp", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400)
        error = answer.json()["error"]
        assert error["code"] in (-32002, -32700)
        assert "Traceback" not in answer.text


async def test_an_internal_error_is_not_shown_to_the_client() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        rig.host.only.file_error = ZeroDivisionError("secret")
        with pytest.raises(MCPError) as refused:
            await agent.read_resource(f"waggle://environments/{environment}/files/tmp/x")
        assert refused.value.error.code == -32603
        assert refused.value.error.data["waggle/error"]["code"] == "internal"
        assert "secret" not in str(refused.value.error)
