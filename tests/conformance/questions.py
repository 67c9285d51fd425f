# SPDX-License-Identifier: Apache-2.0
"""Tools of the conformance suite that question their client: by requests (2025), results (2026)."""

from __future__ import annotations

from typing import Any, Literal, cast

import anyio
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field
from tests.conformance.fixtures import STEP_SECONDS

Ctx = Context[Any, Any]


class Person(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


def titled(kind: str, values: str) -> list[dict[str, str]]:
    return [{"const": value, "title": f"{kind} {value}"} for value in values.split()]


PLAIN = ["option1", "option2", "option3"]
ENUMS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": PLAIN},
        "titledSingle": {"type": "string", "oneOf": titled("Option", "value1 value2 value3")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": PLAIN}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": titled("Choice", "value1 value2 value3")},
        },
    },
    "required": [],
}


def sampling(question: str, tokens: int = 100) -> CreateMessageRequest:
    said = SamplingMessage(role="user", content=TextContent(text=question))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[said], max_tokens=tokens)
    )


def asking(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def answer(ctx: Ctx, key: str, name: str) -> Any:
    """Return the answer to one question of an earlier round; None without a valid one."""
    given = (ctx.input_responses or {}).get(key)
    content: object = getattr(given, "content", None)
    return cast("dict[str, Any]", content).get(name) if isinstance(content, dict) else None


def add_2025(server: MCPServer[Any]) -> None:
    """Add tools that send requests to the client during a call, and log messages."""

    @server.tool(structured_output=False)
    async def test_tool_with_logging(ctx: Ctx) -> str:
        """Log three times."""
        for said in ("started", "processing data", "completed"):
            verb = "Tool" if said == "processing data" else "Tool execution"
            await ctx.info(  # pyright: ignore[reportDeprecated]  # the suite asks for it
                f"{verb} {said}"
            )
            await anyio.sleep(STEP_SECONDS)
        return "Logged."

    @server.tool(structured_output=False)
    async def test_sampling(prompt: str, ctx: Ctx) -> str:
        """Ask the client's model."""
        said = SamplingMessage(role="user", content=TextContent(text=prompt))
        result = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]  # as above
            messages=[said], max_tokens=100, related_request_id=ctx.request_context.request_id
        )
        return f"LLM response: {getattr(result.content, 'text', '')}"

    @server.tool(structured_output=False)
    async def test_elicitation(message: str, ctx: Ctx) -> str:
        """Ask the user."""
        result = await ctx.elicit(message, Person)
        return f"User response: {result.model_dump_json()}"

    @server.tool(structured_output=False)
    async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
        """Ask the user, with defaults."""
        result = await ctx.elicit("Please fill in", Defaults)
        return f"Elicitation completed: {result.model_dump_json()}"

    @server.tool(structured_output=False)
    async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
        """Ask the user to choose."""
        number = ctx.request_context.request_id
        result = await ctx.session.elicit_form("Please choose", ENUMS, related_request_id=number)
        return f"Elicitation completed: {result.model_dump_json()}"


def ask(questions: dict[str, InputRequest], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult(input_requests=questions, request_state=state)


def add_one_question(server: MCPServer[Any]) -> None:
    """Add tools whose results ask for one input; the client calls again with it."""

    @server.tool(structured_output=False)
    async def test_input_required_result_elicitation(ctx: Ctx) -> str | InputRequiredResult:
        """Ask for a name."""
        name = answer(ctx, "user_name", "name")
        if not isinstance(name, str):
            return ask({"user_name": asking("What is your name?", "name")})
        return f"Hello, {name}!"

    @server.tool(structured_output=False)
    async def test_input_required_result_sampling(ctx: Ctx) -> str | InputRequiredResult:
        """Ask the client's model."""
        said = (ctx.input_responses or {}).get("capital_question")
        if said is None:
            return ask({"capital_question": sampling("What is the capital of France?")})
        return str(getattr(getattr(said, "content", None), "text", said))

    @server.tool(structured_output=False)
    async def test_input_required_result_list_roots(ctx: Ctx) -> str | InputRequiredResult:
        """Ask for the client's roots."""
        said = (ctx.input_responses or {}).get("client_roots")
        if said is None:
            return ask({"client_roots": ListRootsRequest()})
        return " ".join(str(root.uri) for root in getattr(said, "roots", []))


def add_states(server: MCPServer[Any]) -> None:
    """Add tools whose results carry a state through the client."""

    @server.tool(structured_output=False)
    async def test_input_required_result_request_state(ctx: Ctx) -> str | InputRequiredResult:
        """Carry a state through the client."""
        if ctx.request_state != "first" or not ctx.input_responses:
            return ask({"confirm": asking("Please confirm", "ok", "boolean")}, "first")
        return "state-ok"

    @server.tool(structured_output=False)
    async def test_input_required_result_tampered_state(ctx: Ctx) -> str | InputRequiredResult:
        """Carry a state that must not be changed."""
        if ctx.request_state != "sealed" or not ctx.input_responses:
            return ask({"confirm": asking("Please confirm", "ok", "boolean")}, "sealed")
        return "state-ok"


def add_more_questions(server: MCPServer[Any]) -> None:
    """Add tools that ask for several inputs, ask again, or ask only what the client can answer."""

    @server.tool(structured_output=False)
    async def test_input_required_result_multiple_inputs(ctx: Ctx) -> str | InputRequiredResult:
        """Ask three things at once."""
        wanted: dict[str, InputRequest] = {
            "user_name": asking("What is your name?", "name"),
            "greeting": sampling("Generate a greeting", 50),
            "client_roots": ListRootsRequest(),
        }
        if not wanted.keys() <= (ctx.input_responses or {}).keys():
            return ask(wanted, "several")
        return "All three came."

    @server.tool(structured_output=False)
    async def test_input_required_result_multi_round(ctx: Ctx) -> str | InputRequiredResult:
        """Ask twice."""
        if ctx.request_state is None or not ctx.input_responses:
            return ask({"step1": asking("Step 1: What is your name?", "name")}, "round-1")
        if ctx.request_state == "round-1":
            color = asking("Step 2: What is your favorite color?", "color")
            return ask({"step2": color}, "round-2")
        return "Both steps are done."

    @server.tool(structured_output=False)
    async def test_input_required_result_capabilities(ctx: Ctx) -> str | InputRequiredResult:
        """Ask only what the client can answer."""
        can = ctx.client_capabilities or ClientCapabilities()
        wanted: dict[str, InputRequest] = {}
        if can.sampling is not None:
            wanted["sample"] = sampling("Say hello")
        if can.elicitation is not None:
            wanted["name"] = asking("What is your name?", "name")
        if not wanted or ctx.input_responses:
            return "Nothing to ask."
        return ask(wanted)


def add_others(server: MCPServer[Any]) -> None:
    """Add a prompt that asks, and the diagnostic tools of the stateless scenario."""

    @server.prompt(description="Asks for context.")
    async def test_input_required_result_prompt(ctx: Ctx) -> str | InputRequiredResult:
        context = answer(ctx, "user_context", "context")
        if context is None:
            question = asking("What context should the prompt use?", "context")
            return ask({"user_context": question})
        return f"Use this context: {context}"

    @server.tool(structured_output=False)
    async def test_missing_capability(ctx: Ctx) -> str:
        """Need what the client may not have."""
        if (ctx.client_capabilities or ClientCapabilities()).sampling is None:
            needed = ClientCapabilities(sampling=SamplingCapability())
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                "This tool needs sampling.",
                {"requiredCapabilities": needed.model_dump(by_alias=True, exclude_none=True)},
            )
        return "The client can sample."

    @server.tool(structured_output=False)
    async def test_streaming_elicitation(ctx: Ctx) -> str | InputRequiredResult:
        """Report progress, then ask."""
        await ctx.report_progress(1, 2)
        if answer(ctx, "user_name", "name") is None:
            return ask({"user_name": asking("What is your name?", "name")})
        return "Thank you."

    @server.tool(structured_output=False)
    async def test_logging_tool(ctx: Ctx) -> str:
        """Log, for clients that asked for it."""
        await ctx.info(  # pyright: ignore[reportDeprecated]  # the suite asks for it
            "A message."
        )
        return "Logged."
