# SPDX-License-Identifier: Apache-2.0
"""`waggle serve --stdio` as desktop clients start it, with the SDK's client."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from tests.support.server_ports import next_ports
from tests.support.waggle_process import Waggle, environ

ARGV = [sys.executable, "-m", "waggle", "serve", "--stdio"]


class Desktop:
    """A data directory and ports, and the variables of every server that shares them."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self.data = directory / "data"
        self.ports = next_ports()
        ports = {"ssh_port_base": str(self.ports.start), "ssh_port_max": str(self.ports.stop)}
        self.variables = environ(self.data, {**ports, **settings})
        self._look = Waggle(directory, ports=self.ports)

    def left(self) -> dict[str, object]:
        """Return the remains of servers and their machines."""
        stdio = self.data / "stdio"
        states = (
            [entry.name for entry in stdio.iterdir() if entry.is_dir()] if stdio.exists() else []
        )
        return {**self._look.remains(), **({"states": states} if states else {})}

    @contextlib.asynccontextmanager
    async def client(self, log: Path, era: str = "legacy") -> AsyncGenerator[Client]:
        server = StdioServerParameters(command=ARGV[0], args=ARGV[1:], env=self.variables)
        with log.open("ab") as errors:
            transport = stdio_client(server, errlog=errors)  # pyright: ignore[reportArgumentType]  # any file will do
            async with Client(transport, mode=era, read_timeout_seconds=240) as client:
                yield client
