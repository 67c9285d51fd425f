# SPDX-License-Identifier: Apache-2.0
"""The guests' way to the network, as settings make it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.settings import settings_in
from tests.support.vm import environment

from waggle.app.network import Egress, operator_rules
from waggle.domain.observer import Observer
from waggle.infra.net.allowance import AllowanceLimits

pytestmark = pytest.mark.anyio


async def test_settings_limit_environments_and_owners(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path,
        egress_max_connections="7",
        egress_owner_connections="70",
        egress_max_mb="3",
        egress_owner_mb="30",
        egress_rate="1M",
        egress_total_rate="10M",
    )
    proxy = Egress(settings, operator_rules(settings), Observer()).new_proxy(environment())
    assert proxy._limits.connections == 7
    assert proxy._allowance.limits == AllowanceLimits(
        environment_bytes=3 << 20,
        owner_bytes=30 << 20,
        owner_connections=70,
        rate=1 << 20,
        total_rate=10 << 20,
    )


async def test_a_resumed_environment_goes_on_counting(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    egress = Egress(settings, operator_rules(settings), Observer())
    paused = environment()
    await egress.new_proxy(paused)._allowance.received(1_000)
    resumed = egress.new_proxy(paused)
    assert resumed.traffic.to_guest == egress.allowances.traffic.to_guest == 1_000


async def test_connections_end_that_changed_rules_of_the_operator_do_not_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    rules = operator_rules(settings)
    egress = Egress(settings, rules, Observer())
    proxy = egress.new_proxy(environment())
    ended: list[str] = []
    monkeypatch.setattr(proxy, "end_refused", lambda: ended.append("asked") or 0)
    versions = iter([1, 1, 2])
    monkeypatch.setattr(type(rules), "version", property(lambda _: next(versions)))
    naps = 0

    async def sleep(_seconds: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await egress.watch_rules(sleep)
    assert ended == ["asked"]
