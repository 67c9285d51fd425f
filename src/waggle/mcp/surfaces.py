# SPDX-License-Identifier: Apache-2.0
"""What one client sees: tools, prompts and instructions for the toolsets that it is offered.

Built by `waggle.mcp.server`, which asks for each request. Surfaces are made when first asked for;
as clients choose, some are kept and others made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from mcp.server.mcpserver.prompts import Prompt
from mcp_types import ListPromptsResult, ListToolsResult
from mcp_types import Prompt as ListedPrompt
from mcp_types import PromptArgument as ListedArgument
from mcp_types import Tool as ListedTool

from waggle.domain.toolset import Offer
from waggle.mcp.context import Services, chosen_offer
from waggle.mcp.instructions import instructions
from waggle.mcp.prompts import prompts_for
from waggle.mcp.schema.tool import OfferedTool
from waggle.mcp.tools import all_tools

MOST_KEPT = 32
"""There are hundreds of choices, and each takes some 300 KB."""


@dataclass(frozen=True, slots=True)
class Surface:
    """What is offered by `offer`, by name, and how it is listed."""

    offer: Offer
    tools: Mapping[str, OfferedTool]
    prompts: Mapping[str, Prompt]
    instructions: str
    tool_list: ListToolsResult
    prompt_list: ListPromptsResult


class Surfaces:
    """The surfaces of one server."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._made = lru_cache(maxsize=MOST_KEPT)(self._make)
        self.default = self._make(services.offer)
        self.whole = self._make(services.offer.whole)

    def of(self, request: object) -> Surface:
        """What the client of this HTTP request sees; without one, what one sees by default."""
        chosen = chosen_offer(request)
        return self.default if chosen is None else self._made(chosen)

    def tool(self, surface: Surface, name: str) -> OfferedTool | None:
        """The tool that a client may call by this name.

        Who did not choose may call all that is allowed, listed or not: programs know what they
        want, and a model that guesses a name is better served than refused.
        """
        found = surface.tools.get(name)
        return found if found or surface.offer.chosen else self.whole.tools.get(name)

    def _make(self, offer: Offer) -> Surface:
        tools = all_tools(replace(self._services, offer=offer))
        names = [tool.name for tool in tools]
        prompts = prompts_for(names)
        return Surface(
            offer=offer,
            tools={tool.name: tool for tool in tools},
            prompts={prompt.name: prompt for prompt in prompts},
            instructions=instructions(
                names, sleep_when_idle=self._services.environments.sleep_when_idle
            ),
            tool_list=ListToolsResult(tools=[_listed(tool) for tool in tools]),
            prompt_list=ListPromptsResult(prompts=[_listed_prompt(each) for each in prompts]),
        )


def _listed(tool: OfferedTool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.parameters,
        output_schema=tool.output_schema,
        annotations=tool.annotations,
        _meta=tool.meta,
    )


def _listed_prompt(prompt: Prompt) -> ListedPrompt:
    return ListedPrompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[
            ListedArgument(name=each.name, description=each.description, required=each.required)
            for each in prompt.arguments or ()
        ],
    )
