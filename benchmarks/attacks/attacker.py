# SPDX-License-Identifier: Apache-2.0
"""Owner A as a process of its own: `python -m benchmarks.attacks.attacker NAME URL`.

Its own, and of the lowest priority, because an attacker's computing is not the server's. Takes the
token as the first line of its standard input. Prepares, writes a line, attacks from the next line
on until another one, destroys what it has while it still attacks, and writes a `Report` as JSON.
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

from waggle.cli.client import call, connected
from waggle.cli.refusals import CallRefused
from waggle.domain.errors import WaggleError

NICE = 19


@dataclass
class Report:
    """What it did. Seconds of each destroy, and how often the server said what."""

    destroys: list[float] = field(default_factory=list[float])
    said: Counter[str] = field(default_factory=Counter[str])


class Attacker:
    """A client of owner A, the end of its attack, and its report."""

    def __init__(self, client: Client, target: Target) -> None:
        self.client, self.target = client, target
        self.over = threading.Event()
        """Set when the attack is to end."""
        self.report = Report()
        self.made: list[str] = []
        """Environments that it has."""
        self._creating = asyncio.Lock()
        self._is_leaving = False

    async def create(self) -> str:
        """A new environment with Python. Raises CancelledError once it destroys what it has."""
        async with self._creating:
            if self._is_leaving:
                raise asyncio.CancelledError
            made = await call(self.client, "create_environment", runtime="python")
            self.made.append(str(made["environment_id"]))
            return self.made[-1]

    async def destroy(self, environment_id: str) -> None:
        """Destroy it, and note how long that took."""
        self.made.remove(environment_id)
        began = time.perf_counter()
        try:
            await call(self.client, "destroy_environment", environment_id=environment_id)
        except CallRefused as refused:
            self.report.said[f"destroy: {refused.reason}"] += 1
        self.report.destroys.append(time.perf_counter() - began)

    async def destroy_all(self) -> None:
        """Destroy what it has, once a create that is under way is done; it creates no more."""
        self._is_leaving = True
        async with self._creating:
            for environment_id in list(self.made):
                await self.destroy(environment_id)

    async def tried(self, tool: str, **arguments: object) -> str:
        """Call a tool and note what came of it: "" or the code of the error."""
        try:
            await call(self.client, tool, **arguments)
        except CallRefused as refused:
            self.report.said[f"{refused.reason}: {str(refused)[:120]}"] += 1
            return refused.reason
        self.report.said["ok"] += 1
        return ""


class Assault(Protocol):
    """What comes before the figures of a quiet server, and what runs until it is over."""

    async def prepare(self, attacker: Attacker) -> None: ...

    async def go(self, attacker: Attacker) -> None: ...


async def run(assault: Assault, attacker: Attacker) -> None:
    """The life of one attacker, as the module says."""
    await assault.prepare(attacker)
    _tell({"ready": True})
    await _told()
    going = asyncio.create_task(_goes(assault, attacker))
    await _told()
    try:
        await attacker.destroy_all()
    finally:
        attacker.over.set()
        going.cancel()
        await asyncio.wait([going], timeout=30)
    _tell(vars(attacker.report))


async def _goes(assault: Assault, attacker: Attacker) -> None:
    """Goes on; an attack that fails by itself is told."""
    while not attacker.over.is_set():
        try:
            await assault.go(attacker)
        except WaggleError as error:
            attacker.report.said[str(error)[:200]] += 1
            await asyncio.sleep(0.5)


async def _told() -> None:
    """The next line, or the end of the input."""
    await asyncio.to_thread(sys.stdin.readline)


def _tell(what: object) -> None:
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
