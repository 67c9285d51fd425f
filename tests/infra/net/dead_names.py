# SPDX-License-Identifier: Apache-2.0
"""Guests ask a name server that answers some names; `test_dead_names` runs it in a namespace.

It writes the results as JSON. The C library's resolver is real, and so are /etc/hosts, the search
domain and the server, which answers names that begin with `good` and ignores all others.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tests.infra.net.name_server import NameServer, Reply, lead_to_it

from waggle.infra.net.lookups import Lookups, limit_resolver, system_lookup
from waggle.infra.net.resolver import SystemResolver


def reply(name: str) -> Reply | None:
    return Reply(addresses=["192.0.2.1"]) if name.startswith("good") else None


async def attack() -> dict[str, object]:
    lookups = Lookups(system_lookup)
    began = time.monotonic()

    async def until(resolve: SystemResolver, name: str) -> list[str]:
        try:
            async with asyncio.timeout(5):
                return [str(address) for address in await resolve(name)]
        except (OSError, TimeoutError) as error:
            return [type(error).__name__]

    hogs = [
        asyncio.ensure_future(until(resolve, f"dead{n}.{hog}.test."))
        for hog in range(4)
        for resolve in [SystemResolver(lookups)]
        for n in range(8)
    ]
    while lookups.running < 32:  # noqa: ASYNC110 (threads do not report their start)
        await asyncio.sleep(0.01)
    mine = SystemResolver(lookups)
    sent = time.monotonic()
    good = await asyncio.gather(*(until(mine, f"good{n}.test.") for n in range(10)))
    took = time.monotonic() - sent
    searched = await until(mine, "good-short")
    known = await until(mine, "in-hosts")
    dead = await asyncio.gather(*hogs)
    while lookups.running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return {
        "good": good,
        "seconds": took,
        "searched": searched,
        "hosts": known,
        "dead": sorted({answer[0] for answer in dead}),
        "freed": time.monotonic() - began,
    }


def main() -> None:
    lead_to_it(Path(sys.argv[1]))
    NameServer(reply).start()
    limit_resolver(os.environ)
    sys.stdout.write(json.dumps(asyncio.run(attack())))


if __name__ == "__main__":
    main()
