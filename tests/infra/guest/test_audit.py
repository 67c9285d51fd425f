# SPDX-License-Identifier: Apache-2.0
"""What an agent notes of requests: checked, cleaned, and passed on at a bounded rate."""

from __future__ import annotations

import pytest
from tests.support.agent_peer import Request, good, line, paired
from tests.support.waiting import until

from waggle.infra.guest.audit import BURST, Audit

pytestmark = pytest.mark.anyio


async def test_notes_of_requests_are_heard() -> None:
    heard: list[Audit] = []
    note = {"method": "file\n_read", "outcome": "o\tk", "subject": "/a\x1b[2J", "seconds": 1}

    def reply(request: Request) -> bytes:
        bad: list[object] = [{**note, "seconds": -1}, {**note, "subject": 7}, [], None, {}]
        notices = [{"jsonrpc": "2.0", "method": "audit", "params": one} for one in [*bad, note]]
        unknown = {"jsonrpc": "2.0", "method": "weather", "params": {"rain": True}}
        return b"".join(map(line, [unknown, *notices])) + good(request)

    async with paired(reply, heard.append) as (client, _):
        await client.ping()
    assert heard == [Audit(method="file?_read", outcome="o?k", subject="/a?[2J", seconds=1)]


async def test_notes_come_at_a_bounded_rate() -> None:
    heard: list[Audit] = []
    note = {"method": "ping", "outcome": "ok", "subject": "", "seconds": 0}
    notice = line({"jsonrpc": "2.0", "method": "audit", "params": note})
    async with paired(lambda request: notice * 900 + good(request), heard.append) as (client, _):
        await client.ping()
    assert BURST <= len(heard) < BURST + 100


async def test_a_client_hears_without_calls_once_it_is_connected() -> None:
    heard: list[Audit] = []
    note = {"method": "ping", "outcome": "ok", "subject": "", "seconds": 0}
    async with paired(good, heard.append) as (client, peer):
        await client.connect()
        await until(lambda: peer.lines == [b"\n"])
        await peer.send(line({"jsonrpc": "2.0", "method": "audit", "params": note}))
        await until(lambda: len(heard) == 1)
