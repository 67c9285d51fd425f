# SPDX-License-Identifier: Apache-2.0
"""Owner A in its own process: `python -m benchmarks.attacks.attacker NAME URL`.

Has its own process, of the lowest priority, so that its CPU time is not the server's. Reads the
token as the first line of its standard input. Prepares, writes a line, attacks from the next input
line until another one, destroys its environments while it still attacks, and writes a `Report` as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from mcp import Client
from tests.support.attacks import Target

from waggle.cli.client import CallRefused, call, connected
from waggle.domain.errors import WaggleError

NICE = 19


@dataclass
class Report:
    """The results of an attacker: seconds of each destroy, and the server's answers with counts."""

    destroys: list[float] = field(default_factory=list[float])
    said: Counter[str] = field(default_factory=Counter[str])


class Attacker:
    """A client of owner A, the end of its attack, and its report."""

    def __init__(self, client: Client, target: Target) -> None:
        self.client, self.target = client, target
        self.over = threading.Event()
        """Set to end the attack."""
        self.report = Report()
        self.made: list[str] = []
        """Ids of its environments."""
        self._creating = asyncio.Lock()
        self._is_leaving = False

    async def create(self, **more: object) -> str:
        """Create an environment with Python. Raises CancelledError once `destroy_all` has begun."""
        async with self._creating:
            if self._is_leaving:
                raise asyncio.CancelledError
            made = await call(self.client, "create_environment", runtime="python", **more)
            self.made.append(str(made["environment_id"]))
            return self.made[-1]

    async def destroy(self, environment_id: str) -> None:
        """Destroy an environment, and record the time."""
        self.made.remove(environment_id)
        began = time.perf_counter()
        try:
            await call(self.client, "destroy_environment", environment_id=environment_id)
        except CallRefused as refused:
            self.report.said[f"destroy: {refused.reason}"] += 1
        self.report.destroys.append(time.perf_counter() - began)

    async def destroy_all(self) -> None:
        """Destroy all environments, after a running create is done; no more are created."""
        self._is_leaving = True
        async with self._creating:
            for environment_id in list(self.made):
                await self.destroy(environment_id)

    async def tried(self, tool: str, **arguments: object) -> str:
        """Call a tool and record the result: "" or the code of the error."""
        try:
            await call(self.client, tool, **arguments)
        except CallRefused as refused:
            self.report.said[f"{refused.reason}: {str(refused)[:120]}"] += 1
            return refused.reason
        self.report.said["ok"] += 1
        return ""


class Assault(Protocol):
    """One attack: `prepare` runs before the figures of a quiet server, `go` until it is over."""

    async def prepare(self, attacker: Attacker) -> None: ...

    async def go(self, attacker: Attacker) -> None: ...


async def run(assault: Assault, attacker: Attacker) -> None:
    """Run one attacker, as the module describes."""
    await assault.prepare(attacker)
    _report({"ready": True})
    await _next_line()
    going = asyncio.create_task(_goes(assault, attacker))
    await _next_line()
    try:
        await attacker.destroy_all()
    finally:
        attacker.over.set()
        going.cancel()
        await asyncio.wait([going], timeout=30)
    _report(vars(attacker.report))


async def _goes(assault: Assault, attacker: Attacker) -> None:
    """Repeat the attack until it is over, and record its own failures."""
    while not attacker.over.is_set():
        try:
            await assault.go(attacker)
        except WaggleError as error:
            attacker.report.said[str(error)[:200]] += 1
            await asyncio.sleep(0.5)


async def _next_line() -> None:
    """Wait for the next line, or the end of the input."""
    await asyncio.to_thread(sys.stdin.readline)


def _report(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(name: str, url: str, token: str) -> None:
    from benchmarks.attacks.assaults import ASSAULTS  # noqa: PLC0415 (it needs this module)

    async with connected(f"{url}/mcp", token) as client:
        await run(ASSAULTS[name], Attacker(client, Target(url, token)))


if __name__ == "__main__":
    os.nice(NICE)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.stdin.readline().strip()))
    os._exit(0)  # threads of an attack may still wait
