# SPDX-License-Identifier: Apache-2.0
"""The guests' way to the network, as settings make it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.settings import settings_in
from tests.support.vm import environment

from waggle.app.network import Egress, operator_network, operator_rules
from waggle.app.values import limits
from waggle.domain.network import parse_network
from waggle.domain.observer import Observer
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.access.operator_rules import OperatorRules
from waggle.infra.net.allowance import AllowanceLimits
from waggle.service.environments.creating import CreateRequest
from waggle.tasks import end

pytestmark = pytest.mark.anyio
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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


async def test_a_changed_file_of_rules_ends_connections_and_a_broken_one_none(
    tmp_path: Path,
) -> None:
    now, turn, turned = 0.0, asyncio.Event(), asyncio.Event()

    async def sleep(_seconds: float) -> None:
        turned.set()
        await turn.wait()
        turn.clear()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        logs = stack.enter_context(capture_logs())

        async def listen(handler: Handler) -> int:
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            stack.callback(server.close)
            return int(server.sockets[0].getsockname()[1])

        port, path = await listen(wait), tmp_path / "rules.toml"
        path.write_text(f"[rules]\nopen = ['127.0.0.1:{port}']\n")
        settings = settings_in(
            tmp_path, egress_allow_cidrs="127.0.0.1/32", egress_ports=f"80,443,{port}"
        )
        approved = tmp_path / "approved.toml"
        rules = OperatorRules(path, approved, required=frozenset(), monotonic=lambda: now)
        egress = Egress(settings, rules, Observer())
        network = parse_network("@open")
        proxy = egress.new_proxy(dataclasses.replace(environment(), network=network))
        stack.push_async_callback(proxy.aclose)
        reader, writer = await asyncio.open_connection("127.0.0.1", await listen(proxy.serve))
        stack.callback(writer.close)
        writer.write(b"CONNECT 127.0.0.1:%d HTTP/1.0\r\n\r\n" % port)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        watching = asyncio.ensure_future(egress.watch_rules(sleep))
        for text, is_open in (
            ("[rules]\nopen = [oops\n", True),
            (f"[rules]\nopen = ['127.0.0.1:{port}']\nmore = []\n", True),
            ("[rules]\nopen = ['127.0.0.1:9']\n", False),
        ):
            path.write_text(text)
            now += 2
            await turned.wait()
            turned.clear()
            turn.set()
            await turned.wait()
            assert bool(rules.problems) is ("oops" in text)
            assert proxy.active == 1 or not is_open
        assert await reader.read() == b""
        events = [line["event"] for line in logs]
        assert events.count("network_rules_not_reloaded") == 1
        assert events.count("network_rules_changed") == 2
        await end(watching)
