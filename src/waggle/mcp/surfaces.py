# SPDX-License-Identifier: Apache-2.0
"""The surface of a client: the tools, prompts and instructions of its toolsets.

`waggle.mcp.server` looks up the surface of each request. The default surface and the whole one are
made at the start; those that clients choose are made on first use, and MOST_KEPT of them are kept.
The instructions name offered tools only, so an agent never looks for a tool that it does not have.
Clients cut them after 2,048 characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from mcp.server.mcpserver.prompts import Prompt
from mcp_types import ListPromptsResult, ListToolsResult
from mcp_types import Prompt as ListedPrompt
from mcp_types import PromptArgument as ListedArgument
from mcp_types import Tool as ListedTool

from waggle.domain.toolset import Offer, naming, without
from waggle.mcp.context import Services
from waggle.mcp.offered import chosen_offer
from waggle.mcp.prompts import prompts_for
from waggle.mcp.schema.tool import OfferedTool
from waggle.mcp.tools import all_tools

_WHEN = (
    "Use waggle whenever code or commands should really run: to compute, analyse data, plot, try a "
    "library, build, test, debug or serve something, or to run unchecked code. It gives "
    "you isolated Linux VMs (environments) with the internet, apart from the user's machine: "
    "nothing there can be harmed, and you may be root."
)
_EXECUTE = (
    "execute runs Python, JavaScript or bash. The first call needs no environment_id: it makes an "
    "environment and returns its id. Give that id in all later calls, as files, packages and "
    "servers stay there. Each run is a new process: to load data in one call and plot it in the "
    "next (plt.show() shows it), give both the same context, e.g. main."
)
_WORK = ("write_file", "edit_file", "read_file", "list_files", "search_files", "run_command")
_TREES = ("upload_files", "download_files")
_JOBS = ("read_job", "wait_job", "write_job", "kill_job", "list_jobs")
_FIRST: Mapping[str, str] = {
    "execute": _EXECUTE,
    "run_code": "run_code runs one program that needs nothing before or after.",
    "create_environment": "create_environment chooses more: runtime, memory, network, first files "
    "and packages.",
    "install_packages": "install_packages installs from PyPI, npm or the distribution.",
}
_CREATING = naming(["create_environment"])
_THEN: Mapping[str, str] = {
    "expose_port": "expose_port gives a URL for a server that runs there, until unexpose_port.",
    "snapshot_environment": "snapshot_environment keeps memory and disk; "
    "create_environment with snapshot starts from it; rollback_environment goes back to it; "
    "list_snapshots and delete_snapshot manage them. fork_environment copies a running "
    "environment, to try several ways, and keep_fork keeps the best; "
    "pause_environment frees its resources until the next call or resume_environment.",
    "get_environment": "get_environment shows its state, extend_environment keeps it, "
    "set_network opens hosts, restart_environment reboots it.",
}
"""By the tool that a step needs; without it, the step is left out."""
_GONE = "One that is not used is destroyed after a while, with its files: read what you need."
_PAUSED = "One that is not used is paused to disk; the next call resumes it."
_LAST = (
    "An error says what to do next. A non-zero exit_code is the program's own result: read stderr."
)


def instructions(offered: Collection[str], *, pauses_when_idle: bool = False) -> str:
    """Return the instructions of a server with these tools. Pure.

    `pauses_when_idle` means that unused environments are paused to disk instead of destroyed.
    """
    steps = [f"- {step}" for step in _steps(offered, pauses_when_idle)]
    return "\n".join([_WHEN, *steps, _LAST])


def _steps(offered: Collection[str], pauses_when_idle: bool) -> Iterator[str]:
    yield from (text for name, text in _FIRST.items() if name in offered)
    if work := [name for name in _WORK if name in offered]:
        yield f"{', '.join(work)} work in an environment, too."
    if trees := [name for name in _TREES if name in offered]:
        yield f"{' and '.join(trees)} move whole trees as archives."
    if jobs := [name for name in _JOBS if name in offered]:
        manage = "manages" if len(jobs) == 1 else "manage"
        yield (
            "A program that still runs after wait_seconds, or with background, becomes a job: "
            f"{', '.join(jobs)} {manage} it. Jobs and contexts go on after a pause, and in forks."
        )
    for name, text in _THEN.items():
        if name in offered:
            yield text if "create_environment" in offered else without(_CREATING, text)
    if "destroy_environment" in offered:
        fate = _PAUSED if pauses_when_idle else _GONE
        yield f"destroy_environment when the work is done; list_environments has yours. {fate}"


MOST_KEPT = 32
"""The most chosen surfaces in memory: there are hundreds, of about 300 KB."""


@dataclass(frozen=True, slots=True)
class Surface:
    """The tools and prompts of `offer`, by name and as lists for clients."""

    offer: Offer
    tools: Mapping[str, OfferedTool]
    prompts: Mapping[str, Prompt]
    instructions: str
    tool_list: ListToolsResult
    prompt_list: ListPromptsResult


class Surfaces:
    """The surfaces of one server."""

    def __init__(self, services: Services) -> None:
        self._pauses = services.environments.pauses_when_idle()
        self._tools = all_tools(services)
        self._made = lru_cache(maxsize=MOST_KEPT)(self._make)
        self.default = self._make(services.offer)
        self.whole = self._make(services.offer.whole)

    def of(self, request: object) -> Surface:
        """Return the surface of this HTTP request's client; the default one without a request."""
        chosen = chosen_offer(request)
        return self.default if chosen is None else self._made(chosen)

    def tool(self, surface: Surface, name: str) -> OfferedTool | None:
        """Return the tool that a client may call by this name; None if there is none.

        A client that did not choose toolsets may call every allowed tool, listed or not: programs
        know their tools, and a model that guesses a name is better served than refused.
        """
        found = surface.tools.get(name)
        return found if found or surface.offer.chosen else self.whole.tools.get(name)

    def offer_with(self, surface: Surface, tool: str) -> Offer:
        """Return the offer for a client that called this tool, which may be more than is listed."""
        return surface.offer if tool in surface.tools else self.whole.offer

    def _make(self, offer: Offer) -> Surface:
        names, tools = offer.tools, offered_tools(self._tools, offer)
        prompts = prompts_for(names)
        return Surface(
            offer=offer,
            tools={tool.name: tool for tool in tools},
            prompts={prompt.name: prompt for prompt in prompts},
            instructions=instructions(names, pauses_when_idle=self._pauses),
            tool_list=ListToolsResult(tools=[_listed(tool) for tool in tools]),
            prompt_list=ListPromptsResult(prompts=[_listed_prompt(prompt) for prompt in prompts]),
        )


def offered_tools(tools: Sequence[OfferedTool], offer: Offer) -> list[OfferedTool]:
    """Return the tools of the offer, with descriptions that name no tool outside it."""
    return [
        tool.model_copy(
            update={
                "description": offer.advice(tool.description),
                "parameters": _advised(tool.parameters, offer),
            }
        )
        for tool in tools
        if offer.has(tool.name)
    ]


def _advised(schema: Any, offer: Offer) -> Any:
    if isinstance(schema, list):
        return [_advised(item, offer) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", schema).items():
        if name != "description" or not isinstance(value, str):
            kept[name] = _advised(value, offer)
        elif advice := offer.advice(value):
            kept[name] = advice
    return kept


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
            ListedArgument(name=taken.name, description=taken.description, required=taken.required)
            for taken in prompt.arguments or ()
        ],
    )
