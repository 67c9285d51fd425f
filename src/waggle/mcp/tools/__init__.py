# SPDX-License-Identifier: Apache-2.0
"""The tools. Their functions take checked arguments and return a result.

`waggle.mcp.surfaces` calls `all_tools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waggle.domain.toolset import Toolset
from waggle.mcp.context import Services
from waggle.mcp.schema.tool import OfferedTool, described, with_header
from waggle.mcp.tools.environments import environment_tools
from waggle.mcp.tools.execution import execution_tools
from waggle.mcp.tools.files import filesystem_tools, tree_tools
from waggle.mcp.tools.jobs import job_tools
from waggle.mcp.tools.lifetime import lifetime_tools, port_tools
from waggle.mcp.tools.run import package_tools, run_tools
from waggle.mcp.tools.search import search_tools
from waggle.mcp.tools.snapshots import pause_tools, snapshot_tools

_MAKERS: Mapping[Toolset, Sequence[Callable[[Services], list[OfferedTool]]]] = {
    Toolset.ENVIRONMENTS: (environment_tools, lifetime_tools),
    Toolset.EXECUTION: (execution_tools,),
    Toolset.JOBS: (job_tools,),
    Toolset.FILES: (filesystem_tools, search_tools, tree_tools),
    Toolset.PACKAGES: (package_tools,),
    Toolset.PORTS: (port_tools,),
    Toolset.SNAPSHOTS: (pause_tools, snapshot_tools),
    Toolset.RUN: (run_tools,),
}
"""By the set of which all their tools are."""


CARRIERS = frozenset(
    {
        *("write_file", "edit_file", "upload_files", "create_environment"),
        *("execute", "run_command", "run_code"),
    }
)
"""The tools that take files or standard input: their calls may be large, others not."""


def all_tools(services: Services) -> list[OfferedTool]:
    """The tools that are offered, in order, described without those that are not."""
    offer = services.offer
    makers = (make for name, each in _MAKERS.items() if offer.any_of([name]) for make in each)
    made = {tool.name: tool for make in makers for tool in make(services)}
    told = [described(made[name], offer) for name in offer.tools]
    return [*map(with_header, told)] if services.parameter_headers else told
