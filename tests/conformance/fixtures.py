# SPDX-License-Identifier: Apache-2.0
"""Content tools, resources and prompts that the conformance suite expects of any server.

Names and texts are the suite's. Only `tests.conformance.server` loads this; the product knows
nothing of it.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    PromptReference,
    ReadResourceRequestParams,
    ResourceTemplateReference,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

Ctx = Context[Any, Any]
STEP_SECONDS = 0.05


def png() -> bytes:
    """Return a PNG of one red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def wav() -> bytes:
    """Return a WAV of one silent sample."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = struct.pack("<4sI", b"data", 2) + b"\x80\x80"
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def image() -> ImageContent:
    return ImageContent(data=base64.b64encode(png()).decode(), mime_type="image/png")


def text(said: str) -> TextContent:
    return TextContent(text=said)


def embedded(uri: str, said: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=said))


def add_tools(server: MCPServer[Any]) -> None:
    """Add the tools of both revisions that only return something."""

    @server.tool(structured_output=False)
    async def test_simple_text() -> TextContent:
        """Return text."""
        return text("This is a simple text response for testing.")

    @server.tool(structured_output=False)
    async def test_image_content() -> ImageContent:
        """Return an image."""
        return image()

    @server.tool(structured_output=False)
    async def test_audio_content() -> AudioContent:
        """Return sound."""
        return AudioContent(data=base64.b64encode(wav()).decode(), mime_type="audio/wav")

    @server.tool(structured_output=False)
    async def test_embedded_resource() -> EmbeddedResource:
        """Return a resource."""
        return embedded("test://embedded-resource", "This is an embedded resource content.")

    @server.tool(structured_output=False)
    async def test_multiple_content_types() -> list[Any]:
        """Return several kinds at once."""
        data = json.dumps({"test": "data", "value": 123})
        return [
            text("Multiple content types test:"),
            image(),
            embedded("test://mixed-content-resource", data, "application/json"),
        ]

    @server.tool(structured_output=False)
    async def test_error_handling() -> str:
        """Fail."""
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool(structured_output=False)
    async def test_tool_with_progress(ctx: Ctx) -> str:
        """Report progress in three steps."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await anyio.sleep(STEP_SECONDS)
        return "Done in three steps."


def add_resources(server: MCPServer[Any]) -> None:
    """Add the suite's resources."""

    @server.resource("test://static-text", mime_type="text/plain", description="Text.")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png", description="A picture.")
    def static_binary() -> bytes:
        return png()

    @server.resource("test://watched-resource", mime_type="text/plain", description="Watched.")
    def watched() -> str:
        return "Watched."

    @server.resource(
        "test://template/{id}/data", mime_type="application/json", description="By number."
    )
    def by_number(id: str) -> str:  # noqa: A002 - the template's name for it
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    async def accept(_ctx: object, _params: object) -> EmptyResult:
        return EmptyResult()

    low = server._lowlevel_server
    waggles = low.get_request_handler("resources/read")
    assert waggles is not None

    async def read(ctx: Any, params: ReadResourceRequestParams) -> Any:
        handle = server._handle_read_resource if params.uri.startswith("test:") else waggles.handler
        return await handle(ctx, params)

    low.add_request_handler("resources/read", ReadResourceRequestParams, read)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)


def add_prompts(server: MCPServer[Any]) -> None:
    """Add the suite's prompts, and completion of their arguments."""

    @server.prompt(description="Without arguments.")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="With two arguments.")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="With a resource.")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's name
        resource = embedded(resourceUri, "Embedded resource content for testing.")
        return [
            UserMessage(resource),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(description="With an image.")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(image()), UserMessage("Please analyze the image above.")]

    @server.completion()
    async def complete(
        _ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        _context: CompletionContext | None,
    ) -> Completion:
        known = ["paris", "park", "party"]
        return Completion(values=[value for value in known if value.startswith(argument.value)])
