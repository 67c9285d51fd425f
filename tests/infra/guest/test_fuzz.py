# SPDX-License-Identifier: Apache-2.0
"""Fuzz tests of a guest's console, agent and renewal: bounded results, or a lost guest."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import cast

import pytest
from tests.support.changed import FRAGMENTS, NUMBERS, attempts, changed, changed_json

from waggle.domain.errors import GuestLost
from waggle.domain.machine import READY_LINE
from waggle.infra.guest.agent import MAX_ANSWER, GuestAgent
from waggle.infra.guest.console import MAX_LINE, MAX_LOG_BYTES, TAIL_LINES, Console
from waggle.infra.guest.renewal import Renewal

LINES = (
    b"[    0.1] Linux version 6.12\r\n" + READY_LINE + b"\nwaggle: boot failed: x\n"
    b"Kernel panic - not syncing: y\n" + b"z" * 500 + b"\nlast"
)
ANSWERS = (
    {"return": {"pid": 7, "exited": True, "out-data": "aGk=", "x": [1.5, None]}},
    {"error": {"class": "GenericError", "desc": "no such \u00e9"}},
)


@pytest.mark.parametrize("count", NUMBERS)
def test_consoles(count: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fragments = (*FRAGMENTS, READY_LINE, b"Kernel panic", b"y" * 20_000)

    def attempt(data: bytes) -> None:
        log.unlink(missing_ok=True)
        console = Console(log, noise="no hole")
        cut = len(data) // 3
        console.feed(data[:cut])
        console.feed(data[cut:])
        reader = asyncio.StreamReader(loop=loop)
        reader.feed_data(data)
        reader.feed_eof()
        loop.run_until_complete(console.follow_messages(reader))
        tail = console.tail()
        console.close()
        assert len(tail) <= TAIL_LINES + 1
        assert all(line.isprintable() and len(line) <= MAX_LINE for line in tail)
        assert console.ready.is_set() or READY_LINE not in data
        assert log.stat().st_size <= MAX_LOG_BYTES

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        attempts(count, lambda chance: changed(LINES, chance, fragments), attempt)


class Wire:
    """The other end of a guest's port, which answers with the same bytes to any request."""

    def __init__(self, reader: asyncio.StreamReader, answer: bytes, *, syncs: bool) -> None:
        self._reader, self._answer, self._syncs = reader, answer, syncs
        self._answered = False

    def write(self, data: bytes) -> None:
        if self._syncs and b"guest-sync" in data:
            token = json.loads(data)["arguments"]["id"]
            self._reader.feed_data(b"%s\n" % json.dumps({"return": token}).encode())
        elif not self._answered:
            self._answered = True
            self._reader.feed_data(self._answer)
            self._reader.feed_eof()

    async def drain(self) -> None:
        """Do nothing: all data is taken at once."""


@pytest.mark.parametrize("syncs", [True, False], ids=["in step", "out of step"])
@pytest.mark.parametrize("count", NUMBERS)
def test_agents(count: int, syncs: bool) -> None:
    def make(chance: random.Random) -> bytes:
        lines = [changed_json(chance.choice(ANSWERS), chance) for _ in range(chance.randint(1, 3))]
        return b"\n".join(lines) + b"\n" * chance.randint(0, 2)

    def attempt(data: bytes) -> None:
        reader = asyncio.StreamReader(limit=MAX_ANSWER, loop=loop)
        wire = cast("asyncio.StreamWriter", Wire(reader, data, syncs=syncs))
        loop.run_until_complete(GuestAgent(reader, wire).call("guest-x"))

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        attempts(count, make, attempt, (GuestLost,))


@pytest.mark.parametrize("count", NUMBERS)
def test_renewals(count: int) -> None:
    good = b"\x01" + (1_000_000_000).to_bytes(8, "little")

    def make(chance: random.Random) -> bytes:
        return changed(good * 2, chance) if chance.random() < 0.9 else good

    def attempt(data: bytes) -> None:
        reader = asyncio.StreamReader(loop=loop)
        wire = cast("asyncio.StreamWriter", Wire(reader, data, syncs=False))
        renewal = Renewal(reader, wire, now=lambda: 1_000_000_000)
        loop.run_until_complete(renewal.renew({"hosts": b"x"}))

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        attempts(count, make, attempt, (GuestLost,))
