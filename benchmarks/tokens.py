# SPDX-License-Identifier: Apache-2.0
"""The cost of tools and results for a model, in tokens of o200k_base, as a client gets them."""

from __future__ import annotations

from collections.abc import Sequence

from mcp import Client
from mcp_types import Tool
from tests.support.agent_session import CALLS, costs
from tests.support.tokens import compact, tokens

from benchmarks.options import Options
from benchmarks.server import environment, serving
from benchmarks.table import Result


async def measure(options: Options) -> list[Result]:
    """Measure the rows of the group `tokens`."""
    results: list[Result] = []
    async with serving() as server, Client(server.url) as client:
        for name, url in (("core", server.url), ("full", f"{server.url}?toolsets=full")):
            async with Client(url) as other:
                tools = (await other.list_tools()).tools
            how = f"{len(tools)} tools"
            for key, with_output in ((f"tokens-{name}", False), (f"tokens-{name}-output", True)):
                results.append(_result(key, cost(tools, output=with_output), how))
        options.tick("print(6*7)")
        results.append(_result("tokens-print", await _print(client), "structured content"))
        options.tick(f"{len(CALLS)} calls")
        found = await costs(client)
        text = sum(row.text for row in found)
        how = f"{len(found)} calls; as text {text}"
        results.append(_result("tokens-session", sum(row.structured for row in found), how))
    return results


def cost(tools: Sequence[Tool], *, output: bool) -> int:
    """Count the tokens of all tools as compact JSON of the parts that clients put into a prompt."""
    return sum(
        tokens(
            compact(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.input_schema,
                    **({"output_schema": tool.output_schema} if output else {}),
                }
            )
        )
        for tool in tools
    )


async def _print(client: Client) -> int:
    async with environment(client, "python") as made:
        arguments = {"environment_id": made.id, "code": "print(6*7)"}
        result = await client.call_tool("execute", arguments)
    return tokens(compact(result.structured_content))


def _result(key: str, value: int, how: str) -> Result:
    return Result(key, value, f"{value} tokens", "", how)
