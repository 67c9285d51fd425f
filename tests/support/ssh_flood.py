# SPDX-License-Identifier: Apache-2.0
"""The effects of one hostile SSH server on the event loop and another environment, in figures.

`python -m tests.support.ssh_flood [SECONDS] [KIND ...]` prints them; the tests assert them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import structlog
from tests.support.hostile_ssh import KINDS, Where, hostile

from waggle.domain.errors import WaggleError
from waggle.domain.programs import Command
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.run.launcher import CommandSession

MB = 1e6
TICK = 0.005
STATM = Path("/proc/self/statm")


def resident() -> float:
    """Return this process's memory in MB."""
    return int(STATM.read_text().split()[1]) * resource.getpagesize() / MB


@dataclass(slots=True)
class Figures:
    """Seconds and MB. `stall` is wall time, `stall_cpu` this thread's CPU time meanwhile."""

    kind: str = ""
    stall: float = 0.0
    stall_cpu: float = 0.0
    grown: float = 0.0
    kept: float = 0.0
    waits: list[float] = field(default_factory=list[float])
    ended: float = 0.0
    says: str = ""

    def __str__(self) -> str:
        worst = f"{max(self.waits):.3f} s of {len(self.waits)}" if self.waits else "no answer"
        return (
            f"{self.kind:24} stall {self.stall:.3f} s (CPU {self.stall_cpu:.3f})  "
            f"memory +{self.grown:.0f} kept +{self.kept:.0f} MB  other {worst}  "
            f"end {self.ended:.3f} s  says {self.says or '-'}"
        )


@contextlib.asynccontextmanager
async def _watched(figures: Figures) -> AsyncGenerator[None]:
    gc.collect()
    gc.freeze()  # the test suite's objects are not the server's
    before = resident()

    async def watch() -> None:
        wall, cpu = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(TICK)
            now, used = time.monotonic(), time.thread_time()
            figures.stall = max(figures.stall, now - wall - TICK)
            figures.stall_cpu = max(figures.stall_cpu, used - cpu)
            figures.grown = max(figures.grown, resident() - before)
            wall, cpu = now, used

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        gc.unfreeze()
        gc.collect()
        figures.kept = resident() - before


async def _nothing(_host: str) -> list[Address]:
    return [ip_address("192.0.2.1")]


async def attacked(
    kind: str, bad: Where, good: Where, seconds: float, *, until_said: bool = False
) -> Figures:
    """Have `bad` attack its connection for `seconds`, while `good` runs commands; then end it.

    With `until_said`, the attack ends when the connection reports it, after a minute at most.
    """
    figures = Figures(kind)
    proxy = EgressProxy(AddressPolicy(), _nothing)
    attacked, other = SshConnection(*bad, proxy=proxy.serve), SshConnection(*good)
    shell = Shell(other)
    try:
        await shell.run(Command(("true",), 30.0, 100))
        async with _watched(figures):
            session = CommandSession(1000)
            await open_exec(await attacked.get(), session, f"attack {kind}", window=2 << 20)
            end = time.monotonic() + (60 if until_said else seconds)
            while (started := time.monotonic()) < end and not (until_said and figures.says):
                await shell.run(Command(("true",), 120.0, 100))
                figures.waits.append(time.monotonic() - started)
                await asyncio.sleep(TICK)
                try:
                    attacked.require_good_conduct()
                except WaggleError as error:
                    figures.says = error.code
            started = time.monotonic()
            await attacked.aclose()
            await proxy.aclose()
            figures.ended = time.monotonic() - started
    finally:
        await other.aclose()
        await attacked.aclose()
        await proxy.aclose()
    return figures


async def _main(seconds: float, kinds: list[str]) -> None:
    async with hostile() as bad, hostile() as good:
        for kind in kinds or KINDS:
            sys.stdout.write(f"{await attacked(kind, bad, good, seconds)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(_main(float(sys.argv[1]) if sys.argv[1:] else 5.0, sys.argv[2:]))
