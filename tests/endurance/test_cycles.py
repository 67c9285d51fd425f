# SPDX-License-Identifier: Apache-2.0
"""Repeated cycles of creating, using and destroying environments leave nothing in the server."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from tests.support.server import NO_TLS
from tests.support.server_holding import LEAK_KB, POOL, growth_kb, holding, leaks, memory_kb
from tests.support.waggle_client import until, with_template
from tests.support.waggle_process import Waggle, running, small
from tests.support.workload import ANSWER_SECONDS, Caller

FEW = 5
"""Cycles in a run of all tests."""
FIRST = 5
"""Cycles before anything is counted: thread pools, caches and tables fill first."""
SETTLE_SECONDS = 60.0


@pytest.mark.anyio
@pytest.mark.vm
@pytest.mark.timeout(900)
async def test_a_few_cycles_leave_nothing(tmp_path: Path) -> None:
    await _cycles(tmp_path, FEW)


@pytest.mark.anyio
@pytest.mark.vm
@pytest.mark.endurance
async def test_many_cycles_leave_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    await _cycles(tmp_path, int(str(pytestconfig.getoption("cycles"))))


async def _cycles(directory: Path, count: int) -> None:
    with running(directory, small(directory)) as server:
        await with_template(server)
        async with httpx2.AsyncClient(timeout=ANSWER_SECONDS, verify=NO_TLS) as http:
            call = Caller(http, server.mcp)
            for number in range(FIRST):
                await _cycle(call, number)
        # The client has closed its connections, so none of them is counted.
        before = holding(server) + Counter(threads=POOL)
        samples: list[int] = []
        began = time.monotonic()
        async with httpx2.AsyncClient(timeout=ANSWER_SECONDS, verify=NO_TLS) as http:
            call = Caller(http, server.mcp)
            for number in range(1, count + 1):
                await _cycle(call, number)
                samples.append(memory_kb(server))
                if number % max(1, count // 10) == 0:
                    _report(f"{number} cycles in {time.monotonic() - began:.0f} s", server)
        try:
            await until(lambda: not holding(server) - before, SETTLE_SECONDS)
        except pytest.fail.Exception:
            pytest.fail(f"left behind: {dict(holding(server) - before)}")
        _report(f"{growth_kb(samples):.1f} kB for each cycle", server)
        assert not leaks(samples), f"{growth_kb(samples):.1f} kB for each cycle: {samples}"


async def _cycle(call: Caller, number: int) -> None:
    made = await call("create_environment", runtime="shell")
    identity = made["environment_id"]
    done = await call("execute", environment_id=identity, code=f"echo {number}")
    assert done["stdout"] == f"{number}\n"
    await call("destroy_environment", environment_id=identity)


def _report(line: str, server: Waggle) -> None:
    kinds = holding(server)
    descriptors = sum(many for kind, many in kinds.items() if kind.startswith("descriptor"))
    sys.stderr.write(
        f"{line}: {memory_kb(server)} kB, {kinds['threads']} threads, {descriptors} descriptors\n"
    )


def _series(count: int, leak: float, *, once: int = 0) -> list[int]:
    rng = random.Random(count)
    noise = [rng.uniform(-1_000, 1_000) for _ in range(count)]
    return [
        round(120_000 + leak * at + noise[at] + (once if at > count // 2 else 0))
        for at in range(count)
    ]


def test_a_leak_of_50_kb_per_cycle_is_found_and_noise_is_not() -> None:
    assert leaks(_series(1_000, 2 * LEAK_KB))
    assert not leaks(_series(1_000, 0))
    assert not leaks(_series(1_000, 0, once=3_000)), "an arena more is no leak"
    assert not leaks(_series(10, 0))
    assert leaks(_series(10, 1_000)), "what is gross shows at once"
    assert growth_kb(_series(1_000, 50)) == pytest.approx(50, abs=5)
