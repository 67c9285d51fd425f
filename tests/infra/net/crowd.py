# SPDX-License-Identifier: Apache-2.0
"""Proxies of several environments in a process of their own, whose memory tests measure.

`python -m tests.infra.net.crowd ENVIRONMENTS CONNECTIONS` writes the proxies' ports as JSON, and
then for each line that it reads its resident memory in kB, and how many connections it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from waggle.domain.network.rule_book import Judges
from waggle.infra.net.allowance import AllowanceLimits, Allowances
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.policy import Address, AddressPolicy


async def no_names(name: str) -> Sequence[Address]:
    raise OSError(name)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 1024


def say(numbers: list[int]) -> None:
    sys.stdout.write(json.dumps(numbers) + "\n")
    sys.stdout.flush()


async def main(environments: int, connections: int) -> None:
    allowances = Allowances(AllowanceLimits())
    policy = AddressPolicy([ip_network("127.0.0.1/32")])
    proxies = [
        EgressProxy(
            policy,
            no_names,
            reach=Reach(judges=Judges(ports=None, web=None)),
            limits=EgressLimits(connections=connections),
            allowance=allowances.of(f"{number}", f"owner-{number % 5}"),
        )
        for number in range(environments)
    ]
    servers = [
        await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=1_000) for proxy in proxies
    ]
    say([server.sockets[0].getsockname()[1] for server in servers])
    while await asyncio.to_thread(sys.stdin.readline):
        gc.collect()
        say([resident(), sum(proxy.active for proxy in proxies)])
    for server in servers:
        server.close()
    for proxy in proxies:
        await proxy.aclose()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
