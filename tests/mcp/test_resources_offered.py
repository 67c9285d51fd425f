# SPDX-License-Identifier: Apache-2.0
"""Resources under WAGGLE_TOOLSETS: data that no offered tool may read is no resource either."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    EmptyResult,
    ResourceTemplateReference,
    SubscribeRequest,
    SubscribeRequestParams,
)
from tests.support.displays import record
from tests.support.fakes import FakeFile, FakeGuest
from tests.support.server import ERAS, LEGACY, MODERN, Rig, Setup, client, data_of, serving

from waggle.domain.access import LOCAL
from waggle.domain.programs import HOME, Command, ExecutionResult, Streams
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import ALL_TOOLSETS, Toolset
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
    display_uri,
    displays_uri,
    environment_uri,
    file_uri,
    network_uri,
    output_uri,
)
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio

ENVIRONMENT, NETWORK, OUTPUT, DISPLAYS, DISPLAY, FORM, FILE, ARCHIVE = KINDS = (
    ENVIRONMENT_TEMPLATE,
    NETWORK_TEMPLATE,
    STREAM_TEMPLATE,
    DISPLAYS_TEMPLATE,
    DISPLAY_TEMPLATE,
    FORM_TEMPLATE,
    FILE_TEMPLATE,
    ARCHIVE_TEMPLATE,
)
REFUSED = (
    "This server does not offer resources of this kind. resources/templates/list has those that it "
    "offers. (not_found)"
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
TOPICS = [toolset for toolset in Toolset if toolset is not Toolset.CORE]
"""The toolsets without the core: every tool is in exactly one of them."""
SETS = [{*some} for count in range(1, 3) for some in itertools.combinations(TOPICS, count)]


def expected(toolsets: set[Toolset]) -> set[str]:
    """Return the kinds of resources that these toolsets offer."""
    kinds = {ENVIRONMENT, NETWORK} if Toolset.ENVIRONMENTS in toolsets else set[str]()
    if toolsets & {Toolset.EXECUTION, Toolset.JOBS, Toolset.PACKAGES}:
        kinds |= {OUTPUT, DISPLAYS, DISPLAY, FORM}
    return kinds | ({FILE, ARCHIVE} if Toolset.FILES in toolsets else set())


@asynccontextmanager
async def filled(toolsets: set[Toolset], era: str) -> AsyncGenerator[tuple[Client, dict[str, str]]]:
    """Yield a client and the URI of one resource of every kind, offered or not."""
    async with serving(Setup(toolsets=toolsets)) as rig, client(rig, era) as agent:
        yield agent, await fill(rig)


async def fill(rig: Rig) -> dict[str, str]:
    services = rig.services
    request = CreateRequest(RuntimeName.PYTHON)
    environment = (await services.environments.create(request, owner=LOCAL)).id
    rig.host.only.files[f"{HOME}/a.txt"] = FakeFile(b"text", 0o644)
    job = await services.execution.execute(environment, "echo hello", owner=LOCAL)
    await job.attend(20)
    job.display.feed(record({"text/html": "<b>x</b>"}))
    packed = await services.trees.download(environment, HOME, owner=LOCAL)
    return {
        ENVIRONMENT: environment_uri(environment),
        NETWORK: network_uri(environment),
        OUTPUT: output_uri(environment, job.number, StreamName.STDOUT),
        DISPLAYS: displays_uri(environment, job.number),
        DISPLAY: display_uri(environment, job.number, 1),
        FORM: display_uri(environment, job.number, 1, "text/html"),
        FILE: file_uri(environment, f"{HOME}/a.txt"),
        ARCHIVE: archive_uri(environment, packed.id),
    }


async def readable(agent: Client, uris: dict[str, str]) -> set[str]:
    """Return the kinds that can be read; assert that the others get the usual refusal."""
    refusals = {kind: await refusal(agent, uri) for kind, uri in uris.items()}
    assert {*refusals.values()} <= {"", REFUSED}
    return {kind for kind, refused in refusals.items() if not refused}


async def refusal(agent: Client, uri: str) -> str:
    """Read a resource and return the refusal, or an empty text if it may be read."""
    try:
        await agent.read_resource(uri)
    except MCPError as error:
        return f"{error.error.message} ({error.error.data['waggle/error']['code']})"
    return ""


@pytest.mark.parametrize("toolsets", SETS, ids=lambda toolsets: "+".join(sorted(toolsets)))
async def test_a_kind_is_in_templates_lists_completion_and_reads_or_in_none(
    toolsets: set[Toolset],
) -> None:
    kinds = expected(toolsets)
    async with filled(toolsets, MODERN) as (agent, uris):
        templates = (await agent.list_resource_templates()).resource_templates
        assert {template.uri_template for template in templates} == kinds
        listed = {str(resource.uri) for resource in (await agent.list_resources()).resources}
        assert listed == {uris[kind] for kind in kinds & {ENVIRONMENT, OUTPUT, DISPLAYS}}
        assert await readable(agent, uris) == kinds
        for kind in KINDS:
            reference = ResourceTemplateReference(uri=kind)
            values = (await agent.complete(reference, {"name": "id", "value": ""})).completion
            assert bool(values.values) is (kind in kinds)


@pytest.mark.parametrize("era", ERAS)
async def test_without_files_neither_files_nor_archives_can_be_read(era: str) -> None:
    async with filled({*TOPICS} - {Toolset.FILES}, era) as (agent, uris):
        assert await readable(agent, uris) == {*KINDS} - {FILE, ARCHIVE}


async def test_a_subscription_to_an_unreadable_resource_is_refused() -> None:
    async with filled({Toolset.FILES}, LEGACY) as (agent, uris):
        for kind in (ENVIRONMENT, OUTPUT):
            request = SubscribeRequest(params=SubscribeRequestParams(uri=uris[kind]))
            with pytest.raises(MCPError, match="does not offer"):
                await agent.session.send_request(request, EmptyResult)


async def test_an_environment_does_not_list_outputs_that_are_not_offered() -> None:
    for toolsets, count in (({Toolset.ENVIRONMENTS}, 0), ({*ALL_TOOLSETS}, 1)):
        async with filled(toolsets, MODERN) as (agent, uris):
            (content,) = (await agent.read_resource(uris[ENVIRONMENT])).contents
            assert len(json.loads(content.model_dump()["text"])["executions"]) == count


async def writing(guest: FakeGuest, path: str, command: Command, into: Streams) -> ExecutionResult:
    guest.files[path] = FakeFile(SVG, 0o644)
    return await guest.interpret(command, into)


async def test_an_image_is_shown_without_a_uri_where_files_are_not_offered() -> None:
    for toolsets in ({*ALL_TOOLSETS}, {*TOPICS} - {Toolset.FILES}):
        async with serving(Setup(toolsets=toolsets)) as rig, client(rig, MODERN) as agent:
            made = data_of(await agent.call_tool("create_environment", {"runtime": "python"}))
            guest, path = rig.host.only, f"{HOME}/a.svg"
            guest.programs["python"] = partial(writing, guest, path)
            arguments = {"environment_id": made["environment_id"], "code": "echo", "images": True}
            result = await agent.call_tool("execute", arguments)
            link = ["resource_link"] * (Toolset.FILES in toolsets)
            assert [block.type for block in result.content] == ["text", "image", *link]
