# SPDX-License-Identifier: Apache-2.0
"""The rate at which a guest is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.pace import BURST, PER_SECOND, Pace

if TYPE_CHECKING:
    from tests.infra.net.lab import OpenLab

DENIED = b"CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: 10.0.0.1:443\r\n\r\n"


def test_a_burst_is_free_and_then_the_rate_applies() -> None:
    now = [1000.0]
    pace = Pace(burst=10, per_second=5, now=lambda: now[0])
    assert [round(pace.take(), 3) for _ in range(10)] == [0.0] * 10
    assert pace.is_over
    assert [round(pace.take(), 3) for _ in range(3)] == [0.2, 0.4, 0.6]
    now[0] += 1.0
    assert not pace.is_over
    assert [round(pace.take(), 3) for _ in range(3)] == [0.0, 0.0, 0.2]
    now[0] += 1000
    assert [round(pace.take(), 3) for _ in range(10)] == [0.0] * 10


@pytest.mark.anyio
async def test_a_guest_that_repeats_denied_requests_is_answered_twenty_times_a_second(
    open_lab: OpenLab,
) -> None:
    """The attack: 600 denied requests a second filled the event loop, at 1.7 ms a request."""
    async with open_lab() as lab:
        loop = asyncio.get_running_loop()
        answered = 0

        async def insist() -> None:
            nonlocal answered
            while loop.time() < end:
                answer = await lab.ask(DENIED)
                assert answer.startswith(b"HTTP/1.1 403 "), answer
                answered += 1

        began = loop.time()
        end = began + 1.0
        await asyncio.gather(*(insist() for _ in range(30)))
        assert answered <= BURST + PER_SECOND * (loop.time() - began) + 1
        assert len(lab.decisions) == answered


@pytest.mark.anyio
async def test_excess_connections_are_dropped_without_an_answer_after_a_burst(
    open_lab: OpenLab,
) -> None:
    async with open_lab(EgressLimits(connections=1)) as lab:
        lab.proxy._pace = Pace(now=lambda: 0.0)
        await lab.connect()
        answers: list[bytes] = []
        for _ in range(BURST + 50):
            try:
                answers.append(await lab.ask(b""))
            except ConnectionError:
                answers.append(b"")
        is_refused = [answer.startswith(b"HTTP/1.1 503 ") for answer in answers]
        assert is_refused == [True] * BURST + [False] * 50
