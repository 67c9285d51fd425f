# SPDX-License-Identifier: Apache-2.0
"""Fuzz tests of a guest's console, agent and renewal: bounded results, or a lost guest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from tests.support.changed import FRAGMENTS, NUMBERS, attempts, changed, changed_json

from waggle.domain.errors import GuestLost
from waggle.domain.machine import READY_LINE
from waggle.infra.guest.answers import Refusal, parse
from waggle.infra.guest.channel import over
from waggle.infra.guest.console import MAX_LINE, MAX_LOG_BYTES, TAIL_LINES, Console
from waggle.infra.guest.paced_lines import Lines
from waggle.infra.guest.protocol import MAX_ANSWER
from waggle.infra.guest.renewal import Renewal

LINES = (
    b"[    0.1] Linux version 6.12\r\n" + READY_LINE + b"\nwaggle: boot failed: x\n"
    b"Kernel panic - not syncing: y\n" + b"z" * 500 + b"\nlast"
)
ANSWERS: tuple[Mapping[str, object], ...] = (
    {"jsonrpc": "2.0", "id": 7, "result": {"stdout": "aGk=", "x": [1.5, None], "y": True}},
    {"jsonrpc": "2.0", "id": 8, "error": {"code": -32000, "message": "no \u00e9", "data": {}}},
    {"jsonrpc": "2.0", "method": "audit", "params": {"method": "ping"}},
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

    def __init__(self, reader: asyncio.StreamReader, answer: bytes) -> None:
        self._reader, self._answer = reader, answer
        self._answered = False

    def write(self, data: bytes) -> None:
        if not self._answered:
            self._answered = True
            self._reader.feed_data(self._answer)
            self._reader.feed_eof()

    async def drain(self) -> None:
        """Do nothing: all data is taken at once."""

    def is_closing(self) -> bool:
        return False

    @property
    def transport(self) -> Wire:
        return self

    def abort(self) -> None:
        """Do nothing: the answer has ended already."""


@pytest.mark.parametrize("count", NUMBERS)
def test_lines_of_agents(count: int) -> None:
    def make(chance: random.Random) -> bytes:
        return changed_json(chance.choice(ANSWERS), chance)

    def attempt(data: bytes) -> None:
        for line in Lines(MAX_ANSWER).feed(data + b"\n"):
            said = parse(line)
            if isinstance(said, Refusal):
                assert said.message.isprintable()

    attempts(count, make, attempt)


@pytest.mark.parametrize("count", NUMBERS)
def test_renewals(count: int) -> None:
    good = b"\x01" + (1_000_000_000).to_bytes(8, "little")

    def make(chance: random.Random) -> bytes:
        return changed(good * 2, chance) if chance.random() < 0.9 else good

    def attempt(data: bytes) -> None:
        reader = asyncio.StreamReader(loop=loop)
        wire = cast("asyncio.StreamWriter", Wire(reader, data))
        renewal = Renewal(over(reader, wire), now=lambda: 1_000_000_000)
        loop.run_until_complete(renewal.renew({"hosts": b"x"}))

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        attempts(count, make, attempt, (GuestLost,))
