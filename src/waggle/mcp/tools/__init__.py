# SPDX-License-Identifier: Apache-2.0
"""The tools. Their functions take checked arguments and return a result.

`waggle.mcp.surfaces` calls `all_tools`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waggle.domain.toolset import ALL_TOOLS
from waggle.mcp.context import Services
from waggle.mcp.schema.tool import OfferedTool, with_header
from waggle.mcp.tools.environments import environment_tools
from waggle.mcp.tools.execution import execution_tools
from waggle.mcp.tools.files import filesystem_tools
from waggle.mcp.tools.jobs import job_tools
from waggle.mcp.tools.networks import network_tools
from waggle.mcp.tools.restart import restart_tools
from waggle.mcp.tools.run import package_tools, run_tools
from waggle.mcp.tools.snapshots import snapshot_tools
from waggle.mcp.tools.transfer import port_tools, tree_tools

_MAKERS: Sequence[Callable[[Services], list[OfferedTool]]] = (
    environment_tools,
    network_tools,
    restart_tools,
    execution_tools,
    job_tools,
    filesystem_tools,
    tree_tools,
    package_tools,
    port_tools,
    snapshot_tools,
    run_tools,
)
CARRIERS = frozenset(
    {
        *("write_file", "edit_file", "upload_files", "create_environment"),
        *("execute", "run_command", "run_code", "write_job", "fork_environment"),
    }
)
"""The tools that take files or standard input: their calls may be large, others not."""


def all_tools(services: Services) -> list[OfferedTool]:
    """All tools, in the order in which clients list them."""
    made = {tool.name: tool for make in _MAKERS for tool in make(services)}
    tools = [made[name] for name in ALL_TOOLS]
    return [*map(with_header, tools)] if services.parameter_headers else tools
