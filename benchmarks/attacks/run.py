# SPDX-License-Identifier: Apache-2.0
"""One attack from its server's start to its end. Always leaves nothing behind.

The server has two owners with tokens. B has a machine and works in it; A, in its own process, has
others and attacks. The server's resources are counted before A connects and after a minute of calm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import traceback
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcp import Client
from tests.support.attacks import Target, called, memory

from benchmarks.attacks.figures import KEPT, Figures
from benchmarks.attacks.names import name_server
from benchmarks.attacks.upstream import hostile_upstream
from benchmarks.attacks.victim import Observer, Seen, Victim
from benchmarks.cycles import settled
from benchmarks.process import difference
from benchmarks.server import Server, serving
from waggle.cli.client import call, connected
from waggle.domain.access import parse_owner
from waggle.infra.access.tokens_file import Entry, digest, new_token

OWNERS = ("attacker", "victim")
CALM = 60.0
PREPARED, ENDED = 240.0, 180.0
"""Seconds that an attacker may take before and after its attack."""
ATTEMPT = 1200.0
"""Seconds, in addition to the attack's own, after which the whole is cancelled."""
_GOOD_NAME = """
import socket, time
proxy = socket.create_connection(("127.0.0.1", 3128))
proxy.sendall(b"CONNECT good%d.test:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % time.time_ns())
answer = proxy.recv(12)
print("alive" if answer == b"HTTP/1.1 403" else answer)
"""
"""Requests a name that resolves to a denied address: that refusal is an answer."""


@dataclass(frozen=True)
class Ground:
    """A server with its log, and the tokens of A and B."""

    server: Server
    log: Path
    attacker: str
    victim: str

    @property
    def url(self) -> str:
        return self.server.url.removesuffix("/mcp")


async def attacked(name: str, seconds: float) -> Figures:
    """Attack and return the figures, or the reason why there are none. Bounded in time."""
    figures = Figures(name, seconds)
    try:
        async with asyncio.timeout(seconds + ATTEMPT), _ground(name) as ground:
            figures = await _beside_a_victim(ground, name, seconds)
            figures = replace(figures, logged=_complaints(ground.log))
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {error}"
        return replace(figures, why=f"it could not be measured: {' '.join(why.split())[:200]}")
    return figures


@asynccontextmanager
async def _ground(name: str) -> AsyncGenerator[Ground]:
    async with contextlib.AsyncExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="waggle-attacks-"))
        tokens, log = Path(place, "tokens"), Path(place, "server.log")
        made = {owner: new_token() for owner in OWNERS}
        lines = [
            Entry(parse_owner(owner), digest(token), None).line() for owner, token in made.items()
        ]
        tokens.touch(mode=0o600)
        tokens.write_text("".join(lines), "ascii")
        more = {
            "WAGGLE_AUTH_TOKENS_FILE": str(tokens),
            "WAGGLE_TEMPLATES": "built",
            "WAGGLE_LOG_FORMAT": "json",
            "WAGGLE_EGRESS_ALLOW_CIDRS": "",
        }
        if name == "ended-tls":
            more |= await stack.enter_async_context(hostile_upstream(Path(place)))
        within = stack.enter_context(name_server(Path(place)))
        server = await stack.enter_async_context(serving(more=more, within=within, log=log))
        yield Ground(server, log, made["attacker"], made["victim"])


async def _beside_a_victim(ground: Ground, name: str, seconds: float) -> Figures:
    server = ground.server
    async with connected(server.url, ground.victim) as client:
        _step("B's machine")
        victim = await _victim(ground, client, name)
        _step("warming up")
        with Observer(victim):  # opens resources that stay open, and reads files that are read once
            await asyncio.sleep(3)
        held = await settled(server, None)
        async with _attacker(name, ground) as attacker:
            _step("A prepares")
            await _message(attacker, PREPARED)
            _step("quiet")
            with Observer(victim) as quiet:
                await asyncio.sleep(max(5.0, min(15.0, seconds / 4)))
            before = memory(server.pid)
            _step("attack")
            with Observer(victim) as seen:
                await _say(attacker)
                await asyncio.sleep(seconds)
                _step("destroy")
                await _say(attacker)
                report = await _message(attacker, ENDED)
        _step("calm")
        after = await _calm(server.pid, before)
        _step("looking for what is left")
        left = difference(held, await settled(server, held))
        _step("end")
    figures = Figures(name, seconds, before=before, after=after, left=_more(left))
    return _with(figures, quiet, seen, report)


def _step(what: str) -> None:
    """Print the current step with the time, for people who watch or read a log later."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}   {what}\n")


def _more(left: Mapping[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in left.items() if count > 0}


def _with(figures: Figures, quiet: Seen, seen: Seen, report: Mapping[str, Any]) -> Figures:
    destroys: list[float] = report["destroys"]
    return replace(
        figures,
        stall=seen.stall,
        computed=seen.computed,
        p99=seen.p99(),
        quiet=quiet.p99(),
        lists=len(seen.lists),
        refused=seen.refused,
        execute=max(seen.executes, default=0.0),
        executes=len(seen.executes),
        failures=seen.failures[:20],
        peak=seen.peak,
        destroy=max(destroys, default=0.0),
        destroys=len(destroys),
        said=dict(report["said"]),
    )


async def _victim(ground: Ground, client: Client, name: str) -> Victim:
    made = await call(client, "create_environment", runtime="python")
    command = ["python3", "-c", _GOOD_NAME] if name == "names-never-answered" else ["echo", "alive"]
    arguments = {"environment_id": made["environment_id"], "command": command, "wait_seconds": 90}
    body = called("run_command", json.dumps(arguments).encode())
    return Victim(Target(ground.url, ground.victim), ground.server.pid, body)


@asynccontextmanager
async def _attacker(name: str, ground: Ground) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.attacks.attacker", name, ground.url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await _say(process, ground.attacker)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _say(process: asyncio.subprocess.Process, line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()


async def _message(process: asyncio.subprocess.Process, patience: float) -> dict[str, Any]:
    """Read the next line of the attacker. Raises RuntimeError if there is none."""
    assert process.stdout is not None
    async with asyncio.timeout(patience):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the attacker's process ended by itself")
    return dict(json.loads(line))


async def _calm(pid: int, before: float) -> float:
    """Return the server's MiB once it is nearly as small as before, or after a minute."""
    loop = asyncio.get_running_loop()
    until = loop.time() + CALM
    while memory(pid) > before * KEPT and loop.time() < until:  # noqa: ASYNC110 (there is no event)
        await asyncio.sleep(0.5)
    return memory(pid)


def _complaints(log: Path) -> list[str]:
    """Return lines that a healthy server never writes: errors, and lines in another format."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line]
    return [line[:300] for line in lines if not line.startswith("{") or '"level": "error"' in line]
