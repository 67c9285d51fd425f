# SPDX-License-Identifier: Apache-2.0
"""The tools, one file per noun. Each function takes checked arguments and returns a result."""

from __future__ import annotations

from mcp.server.mcpserver.tools import Tool

from waggle.mcp.context import Services
from waggle.mcp.tools.environments import environment_tools
from waggle.mcp.tools.execution import execution_tools
from waggle.mcp.tools.filesystem import filesystem_tools
from waggle.mcp.tools.jobs import job_tools
from waggle.mcp.tools.packages import package_tools
from waggle.mcp.tools.search import search_tools
from waggle.mcp.tools.trees import tree_tools


def all_tools(services: Services) -> list[Tool]:
    """Every tool, in the order in which a client lists them."""
    return [
        *environment_tools(services),
        *execution_tools(services),
        *job_tools(services),
        *filesystem_tools(services),
        *search_tools(services),
        *tree_tools(services),
        *package_tools(services),
    ]
