# SPDX-License-Identifier: Apache-2.0
"""The attacks of owner A: with bodies, connections, archives, or its own guests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.attacks import Attack, Target, attacks, called, idle, repeated
from tests.support.hostile_archives import (
    deep_archive,
    packed_window,
    zip_of_long_extra_fields,
    zip_of_many_entries,
)

from benchmarks.attacks import hostile, upstream
from benchmarks.attacks.attacker import Assault, Attacker
from waggle.cli.client import call
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry
from waggle.infra.archive.trees import END, header

LARGEST = (31 << 20) - 1
"""Bytes of the largest body that the server accepts."""
AT_ONCE = 3
"""Concurrent calls to a hostile guest, or archives to a server."""
POLL = 0.1
_PORT, _HELD = 8000, 5.0
_KINDS = ("heads", "interim", "chunks", "body", "drip")
_MISBEHAVES = "guest_misbehaves"
_ARCHIVES = {
    "deep-archive": deep_archive,
    "zip-of-many-entries": zip_of_many_entries,
    "zip-of-long-extra-fields": zip_of_long_extra_fields,
    "packed-window": partial(packed_window, 64 << 20),
}
Call = tuple[str, Mapping[str, Any]]
"""A tool and its arguments, except the environment."""
_RUN: Call = ("run_command", {"command": "true", "timeout_seconds": 60, "wait_seconds": 65})
_LIST: Call = ("list_files", {"path": "/d"})
_PACK: Call = ("download_files", {"path": "/home/sandbox"})
_SEARCH: Call = ("search_files", {"path": "/home/sandbox", "name": "*"})
_ONE_FILE = header(b"a", TreeEntry(Kind.FILE, b"a")) + END
_UNPACK: Call = ("upload_files", {"archive": base64.b64encode(_ONE_FILE).decode()})


@dataclass(frozen=True)
class Threads:
    """An attack of `tests.support.attacks` in several threads, with A's token or without one."""

    attack: Attack
    at_once: int
    without_token: bool = False

    async def prepare(self, attacker: Attacker) -> None:
        await attacker.create()

    async def go(self, attacker: Attacker) -> None:
        target = Target(attacker.target.url) if self.without_token else attacker.target
        threads = [
            asyncio.to_thread(self.attack, target, attacker.over) for _ in range(self.at_once)
        ]
        await asyncio.gather(*threads)


@dataclass(frozen=True)
class Archive:
    """An archive that is uploaded repeatedly."""

    name: str

    async def prepare(self, attacker: Attacker) -> None:
        await attacker.create()

    async def go(self, attacker: Attacker) -> None:
        archive = base64.b64encode(_ARCHIVES[self.name]()).decode()
        arguments = {"environment_id": attacker.made[0], "archive": archive}
        body = called("upload_files", json.dumps(arguments).encode())
        await Threads(repeated(body), AT_ONCE).go(attacker)


@dataclass(frozen=True)
class HostileServer:
    """An SSH server in place of the kit's; once it is detected, another machine gets one."""

    kind: str
    calls: Sequence[Call]

    async def prepare(self, attacker: Attacker) -> None:
        await hostile.take_over(
            attacker.client, await attacker.create(), self.kind, hostile.sealer()
        )

    async def go(self, attacker: Attacker) -> None:
        if not attacker.made:
            await self.prepare(attacker)
        environment_id = attacker.made[0]
        callers = (_calls(attacker, environment_id, call) for call in self.calls)
        await asyncio.gather(*callers)
        if environment_id in attacker.made:
            await attacker.destroy(environment_id)


@dataclass(frozen=True)
class HostileFiles:
    """A program in place of the kit's `files`."""

    kind: str
    call: Call

    async def prepare(self, attacker: Attacker) -> None:
        await hostile.lie(attacker.client, await attacker.create(), self.kind)

    async def go(self, attacker: Attacker) -> None:
        callers = (_calls(attacker, attacker.made[0], self.call) for _ in range(AT_ONCE))
        await asyncio.gather(*callers)


@dataclass(frozen=True)
class Asking:
    """Programs in guests that request hosts from the proxy endlessly."""

    host: str
    guests: int
    threads: int

    async def prepare(self, attacker: Attacker) -> None:
        for _ in range(self.guests):
            made = await attacker.create()
            await hostile.put(
                attacker.client, made, "asks.py", (hostile.GUEST / "asks.py").read_bytes()
            )

    async def go(self, attacker: Attacker) -> None:
        command = ["python3", f"{hostile.PLACE}/asks.py", self.host, str(self.threads)]
        for made in list(attacker.made):
            await hostile.start(attacker.client, made, command)
        while not attacker.over.is_set():  # noqa: ASYNC110 (threads share this event)
            await asyncio.sleep(POLL)


@dataclass(frozen=True)
class EndedTls:
    """A guest and a server on both sides of TLS that the proxy ends."""

    threads: int

    async def prepare(self, attacker: Attacker) -> None:
        made = await attacker.create(secrets=[upstream.SECRET])
        program = (hostile.GUEST / "floods.py").read_bytes()
        await hostile.put(attacker.client, made, "floods.py", program)
        visit = f"python3 {hostile.PLACE}/floods.py {upstream.HOST} 0"
        await hostile.as_root(attacker.client, made, visit)

    async def go(self, attacker: Attacker) -> None:
        command = ["python3", f"{hostile.PLACE}/floods.py", upstream.HOST, str(self.threads)]
        await hostile.start(attacker.client, attacker.made[0], command)
        while not attacker.over.is_set():  # noqa: ASYNC110 (threads share this event)
            await asyncio.sleep(POLL)


@dataclass(frozen=True)
class ExposedPort:
    """A hostile server behind an exposed port, and clients of which half never read."""

    each: int
    """Clients of each path that read, and as many that do not."""

    async def prepare(self, attacker: Attacker) -> None:
        made = await attacker.create()
        program = (hostile.GUEST / "serves.py").read_bytes()
        await hostile.put(attacker.client, made, "serves.py", program)
        command = ["python3", f"{hostile.PLACE}/serves.py", str(_PORT)]
        await hostile.start(attacker.client, made, command)
        await call(attacker.client, "expose_port", environment_id=made, port=_PORT)

    async def go(self, attacker: Attacker) -> None:
        paths = [f"/e/{attacker.made[0]}/{_PORT}/{kind}" for kind in _KINDS]
        for path in paths:
            for reads in (True, False) * self.each:
                visit = threading.Thread(target=_visit, args=(attacker, path, reads), daemon=True)
                visit.start()
        while not attacker.over.is_set():  # noqa: ASYNC110 (threads share this event)
            await asyncio.sleep(POLL)


def _visit(attacker: Attacker, path: str, reads: bool) -> None:
    """Ask again and again for a path, and read the answer or none of it for some seconds."""
    while not attacker.over.is_set():
        with contextlib.suppress(OSError), attacker.target.connect() as line:
            line.settimeout(_HELD)
            line.sendall(attacker.target.head(None, path, "GET"))
            until = time.monotonic() + _HELD
            while reads and time.monotonic() < until and line.recv(1 << 16):
                pass
            attacker.over.wait(0.1 if reads else _HELD)


async def _calls(attacker: Attacker, environment_id: str, call: Call) -> None:
    """Call until the environment is gone or reported as misbehaving."""
    tool, arguments = call
    while environment_id in attacker.made and not attacker.over.is_set():
        said = await attacker.tried(tool, environment_id=environment_id, **arguments)
        if said == _MISBEHAVES:
            return
        if said:
            await asyncio.sleep(POLL)


def _request(target: Target) -> bytes:
    return target.head(None, "/healthz", "GET")


_SSH: Mapping[str, Sequence[Call]] = {
    **{f"{kind}": (_RUN,) * AT_ONCE for kind in (
        "forwarded-opens", "unknown-opens", "global-requests", "unknown-packets",
        "unknown-packets-unread", "debug", "ignore", "one-byte-data", "channel-requests",
        "channel-requests-unread",
    )},
    "rekey-without-end": (_RUN,) * 16,
    "sftp-without-end": (_LIST,) * AT_ONCE,
    "sftp-nobody-asked": (_LIST,) * AT_ONCE,
}  # fmt: skip


def _all() -> dict[str, Assault]:
    found: dict[str, Assault] = {
        name.replace(" ", "-"): Threads(*parts) for name, parts in attacks(LARGEST).items()
    }
    found["idle-connections"] = Threads(idle(1000), 1, without_token=True)
    found["idle-requests"] = Threads(idle(1000, _request), 1, without_token=True)
    found |= {name: Archive(name) for name in _ARCHIVES}
    found |= {kind: HostileServer(kind, calls) for kind, calls in _SSH.items()}
    found["deep-names"] = HostileFiles("deep-names", _PACK)
    found["tiny-records"] = HostileFiles("tiny-records", _PACK)
    found["found-without-end"] = HostileFiles("found-without-end", _SEARCH)
    found["failed-without-end"] = HostileFiles("failed-without-end", _UNPACK)
    found["names-never-answered"] = Asking("dead#.test", guests=4, threads=8)
    found["denied-hosts"] = Asking("10.0.0.1", guests=1, threads=64)
    found["exposed-port"] = ExposedPort(6)
    found["ended-tls"] = EndedTls(24)
    return found


ASSAULTS: Mapping[str, Assault] = _all()
"""The attacks by name, in the order of the table."""
