# SPDX-License-Identifier: Apache-2.0
"""Limits and runtimes of tests that run programs."""

from __future__ import annotations

from waggle.domain.programs.runtime import Runtime, RuntimeName
from waggle.service.programs.execution import ExecutionLimits

LIMITS = ExecutionLimits(wait=30, max_timeout=300, install_timeout=600, output=1_000)


RUNTIMES = {
    RuntimeName.PYTHON: Runtime(
        RuntimeName.PYTHON, ".py", ("python3", "{file}"), ("pip", "install", "{packages}")
    ),
    RuntimeName.NODE: Runtime(
        RuntimeName.NODE, ".js", ("node", "{file}"), ("npm", "install", "{packages}")
    ),
    RuntimeName.SHELL: Runtime(
        RuntimeName.SHELL,
        ".sh",
        ("bash", "{file}"),
        ("apt-get", "install", "-y", "{packages}"),
        install_as_root=True,
    ),
}
