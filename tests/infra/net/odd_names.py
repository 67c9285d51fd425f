# SPDX-License-Identifier: Apache-2.0
"""A guest asks the proxy for slow, odd and hostile names; `test_odd_names` runs it in a namespace.

It writes the results as JSON. The C library's resolver, the name server, the proxy and the web
server are real; the policy permits 127.0.0.1 alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from tests.infra.net.lab import Lab
from tests.infra.net.name_server import NXDOMAIN, SERVFAIL, NameServer, Reply, lead_to_it

from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.lookups import Lookups, limit_resolver, system_lookup
from waggle.infra.net.resolver import SystemResolver

BURSTS = (50, 200)
METADATA = "169.254.169.254"
LINKS = 30
REPLIES = {
    "many.test": Reply(addresses=[f"10.0.{n >> 8}.{n & 255}" for n in range(1_000)]),
    "mixed.test": Reply(addresses=["10.0.0.1", METADATA, "127.0.0.1", "::1"]),
    "private.test": Reply(addresses=["10.0.0.1"]),
    "metadata.test": Reply(addresses=[METADATA]),
    "mapped.test": Reply(addresses=[f"::ffff:{METADATA}"]),
    "nat64.test": Reply(addresses=[f"64:ff9b::{METADATA}"]),
    "chain.test": Reply(
        aliases=[f"link{n}.chain-with-a-long-name.test" for n in range(LINKS)],
        addresses=["127.0.0.1"],
    ),
    "loop.test": Reply(aliases=["back.test", "loop.test", "back.test"]),
    "xn--bcher-kva.test": Reply(addresses=["127.0.0.1"]),
    "upper.test": Reply(addresses=["127.0.0.1"]),
    "dot.test": Reply(addresses=["127.0.0.1"]),
    "empty.test": Reply(),
    "missing.test": Reply(NXDOMAIN),
    "broken.test": Reply(SERVFAIL),
}


def reply(name: str) -> Reply | None:
    if name.startswith("slow"):
        number = int(name.removeprefix("slow").partition(".")[0])
        return Reply(addresses=["127.0.0.1"], delay=0.3 + 1.2 * (number % 13) / 12)
    if name == "tarpit.test":
        return None
    return REPLIES.get(name, Reply(NXDOMAIN))


async def run(server: NameServer) -> dict[str, object]:
    lookups = Lookups(system_lookup)
    results: dict[str, object] = {}
    async with contextlib.AsyncExitStack() as stack:
        lab = Lab(stack)
        await lab.start(EgressLimits(connections=max(BURSTS)), None)
        site = await lab.web(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async def status(name: str) -> str:
            ask = f"GET http://{name}:{site.port}/ HTTP/1.0\r\n\r\n"
            answer = await lab.ask(ask.encode())
            code = [line for line in answer.split(b"\r\n") if line.startswith(b"X-Waggle")]
            return b" ".join([answer.split()[1], *code]).decode()

        tarpits = SystemResolver(lookups)
        lab.names.instead = tarpits
        tarpit = asyncio.ensure_future(status("tarpit.test"))
        exists = asyncio.ensure_future(tarpits.exists("tarpit.test"))
        while not lookups.running:  # noqa: ASYNC110 (threads do not report their start)
            await asyncio.sleep(0.01)
        first = 0
        for burst in BURSTS:
            lab.names.instead = SystemResolver(lookups)
            began = time.monotonic()
            names = [f"slow{first + n}.test" for n in range(burst)]
            first += burst
            found = await asyncio.gather(*(status(name) for name in names))
            results[f"burst{burst}"] = sorted(set(found))
            results[f"seconds{burst}"] = time.monotonic() - began
        resolver = lab.names.instead = SystemResolver(lookups)
        for name in (*REPLIES, "UPPER.TEST", "Dot.Test."):
            results[name] = await status(name)
        results["tarpit.test"] = await tarpit
        results["exists tarpit.test"] = (await exists).status
        for name in ("upper.test", "empty.test", "missing.test", "broken.test"):
            results[f"exists {name}"] = (await resolver.exists(name)).status
        results["addresses of many.test"] = len(await resolver("many.test"))
        results["over TCP"] = sorted({name for name, _, over in server.questions if over == "tcp"})
        while lookups.running:  # noqa: ASYNC110 (threads do not report their end)
            await asyncio.sleep(0.01)
    return results


def main() -> None:
    lead_to_it(Path(sys.argv[1]))
    server = NameServer(reply)
    server.start()
    limit_resolver(os.environ)
    sys.stdout.write(json.dumps(asyncio.run(run(server))))


if __name__ == "__main__":
    main()
