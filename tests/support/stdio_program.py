# SPDX-License-Identifier: Apache-2.0
"""A stdio server over fake machines as a program, for clients that start one themselves.

`STDIO_PROGRAM` is its command line. It ends with its input; everything it prints goes to stderr.
Its guests have the program `connect` of `tests.support.asking`.
"""

from __future__ import annotations

import os
import sys

import anyio
from tests.support.asking import connecting
from tests.support.server import Setup, make_services

from waggle.mcp.server import build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.service.environments.questions import Questions
from waggle.stdio import Wire
from waggle.stdio.server import StdioLimits, StdioServer

STDIO_PROGRAM = [sys.executable, "-m", "tests.support.stdio_program"]


async def main() -> None:
    """Serve one client."""
    wire = Wire(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # the services' log must not mix with messages
    async with anyio.create_task_group() as tasks:
        services = make_services(connecting(Setup(), Questions()), tasks)
        mcp = build_mcp(services)
        await StdioServer(mcp.lowlevel, mcp.calls, wire, StdioLimits(carriers=CARRIERS)).run()
        await services.environments.aclose()
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
