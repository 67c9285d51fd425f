# SPDX-License-Identifier: Apache-2.0
"""The tools in named sets, of which an operator may offer some only."""

from __future__ import annotations

from enum import StrEnum


class Toolset(StrEnum):
    """Tools that belong together. `waggle.mcp.tools` says which are in each."""

    ENVIRONMENTS = "environments"
    EXECUTION = "execution"
    JOBS = "jobs"
    FILES = "files"
    PACKAGES = "packages"
    PORTS = "ports"
    RUN = "run"


ALL_TOOLSETS = frozenset(Toolset)
