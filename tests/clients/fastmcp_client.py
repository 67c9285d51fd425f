# SPDX-License-Identifier: Apache-2.0
# pyright: basic
# fastmcp is not installed beside this project, so its types are unknown here.
"""A fastmcp client that does the main job against the given URL, then prints what it saw.

Given a JSON file of calls in place of a program that hangs, it makes these calls and prints the
results. It runs in its own virtual environment; see `tests.support.tools`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from fastmcp import Client  # pyright: ignore[reportMissingImports, reportUnknownVariableType]  # not in this environment


def shown(result: Any) -> dict[str, Any]:
    """Return a result as it was sent."""
    blocks = [
        each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in result.content
    ]
    told = {"content": blocks, "isError": result.is_error}
    structured = result.structured_content
    return told if structured is None else {**told, "structuredContent": structured}


async def main(url: str, hang: str) -> None:
    connected: Any
    async with Client(url) as connected:  # pyright: ignore[reportUnknownVariableType]  # as above
        client: Any = connected

        async def call(tool: str, **arguments: object) -> Any:
            return await client.call_tool(tool, arguments, raise_on_error=False)

        tools = [tool.name for tool in await client.list_tools()]
        if hang.endswith(".json"):
            results = [
                await call(name, **given) for name, given in json.loads(Path(hang).read_text())
            ]
            told = {"tools": tools, "results": [shown(result) for result in results]}
            sys.stdout.write(json.dumps(told) + "\n")
            return
        made = await call("create_environment", runtime="shell")
        environment = made.structured_content["environment_id"]
        done = await call("execute", environment_id=environment, code="echo from fastmcp")
        refused = await call("execute", environment_id="nonsense", code="echo x")
        hanging = asyncio.create_task(call("execute", environment_id=environment, code=hang))
        await asyncio.sleep(0.5)
        hanging.cancel()
        await asyncio.wait([hanging])
        await call("destroy_environment", environment_id=environment)
        seen = {
            "tools": tools,
            "stdout": done.structured_content["stdout"],
            "refused": refused.is_error,
            "why": refused.content[0].text,
            "ended": "cancelled" if hanging.cancelled() else "answered",
        }
        sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
