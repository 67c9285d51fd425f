# SPDX-License-Identifier: Apache-2.0
"""Guests ask a name server that answers some names; `test_dead_names` runs it in a namespace.

It writes the results as JSON. The C library's resolver is real, and so are /etc/hosts, the search
domain and the server, which answers names that begin with `good` and ignores all others.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from waggle.infra.net.resolver import Lookups, SystemResolver, limit_resolver, system_lookup

A_RECORD = 1
SET_FLAGS, UP = 0x8914, 1


def serve(server: socket.socket) -> None:
    while True:
        question, sender = server.recvfrom(512)
        end = question.index(b"\0", 12) + 5
        kind = int.from_bytes(question[end - 4 : end - 2], "big")
        if not question[13:].startswith(b"good"):
            continue
        found = kind == A_RECORD
        head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1" if found else b""
        server.sendto(head + question[12:end] + record, sender)


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


def bring_up(interface: str) -> None:
    """Set an interface up as `ip link set` does, which a bare host lacks; see netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", interface.encode(), UP))


def main() -> None:
    directory = Path(sys.argv[1])
    bring_up("lo")
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\nsearch corp.test\n"),
        ("hosts", "192.0.2.77 in-hosts\n"),
    ):
        file = directory / name
        file.write_text(text)
        subprocess.run(["mount", "--bind", str(file), f"/etc/{name}"], check=True)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    limit_resolver(os.environ)
    sys.stdout.write(json.dumps(asyncio.run(attack())))


if __name__ == "__main__":
    main()
