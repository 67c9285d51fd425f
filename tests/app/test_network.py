# SPDX-License-Identifier: Apache-2.0
"""The guests' way to the network, as settings make it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.settings import settings_in
from tests.support.vm import environment

from waggle.app.network import Egress, operator_network, operator_rules
from waggle.app.values import limits
from waggle.domain.network.rule_book import NoRules
from waggle.domain.observer import Observer
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.allowance import AllowanceLimits
from waggle.service.environments.creating import CreateRequest

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


class Changing(NoRules):
    """A book whose rules change before the third look at them."""

    def __init__(self) -> None:
        self._versions = iter([1, 1, 2])

    @property
    def version(self) -> int:
        return next(self._versions)


async def test_open_connections_are_judged_again_when_rules_of_the_operator_change(
    tmp_path: Path,
) -> None:
    egress = Egress(settings_in(tmp_path), Changing(), Observer())
    naps = iter([None, None])

    async def sleep(_seconds: float) -> None:
        try:
            next(naps)
        except StopIteration:
            raise asyncio.CancelledError from None

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await egress.watch_rules(sleep)
    assert [line["event"] for line in logs] == ["network_rules_changed"]


def test_a_default_that_is_narrowed_is_logged_and_is_what_environments_get(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, max_network="example.org")
    with capture_logs() as logs:
        network = operator_network(settings, operator_rules(settings))
    assert [(line["event"], line["to"]) for line in logs] == [
        ("default_network_narrowed", "example.org")
    ]
    made = limits(settings, rules=network).network_of(CreateRequest(RuntimeName.PYTHON))
    assert str(made) == "example.org"
    with capture_logs() as logs:
        operator_network(settings_in(tmp_path), operator_rules(settings))
    assert logs == []
