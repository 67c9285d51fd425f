# SPDX-License-Identifier: Apache-2.0
"""Connections in the audit log: one line each at a human pace, and sums in a flood."""

from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.infra.observe.parts import ALLOWED, DENIED, Seconds

from waggle.domain.network.decisions import Decision
from waggle.domain.observer import Egress
from waggle.infra.observe.audit import AuditLog, egress_line
from waggle.infra.observe.egress_lines import MOST_KINDS, EgressLines

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
FLOOD = 100_000


class World:
    """Lines as they are written, and the seconds."""

    def __init__(self) -> None:
        self.written: list[tuple[Egress, int]] = []
        self.seconds = Seconds()
        self.lines = EgressLines(
            lambda egress, more: self.written.append((egress, more)), self.seconds
        )

    @property
    def counts(self) -> list[tuple[str, int]]:
        return [(egress.decision.host, more) for egress, more in self.written]


def denied(host: str, environment: str = "e") -> Egress:
    decision = Decision(host, 443, "no-rule", "no rule allows it")
    return Egress(DENIED.owner, environment, decision)


def test_a_line_has_all_fields() -> None:
    assert json.loads(egress_line(ALLOWED, NOW, 3)) == {
        "time": "2026-03-04T05:06:07.089Z",
        "owner": "ann",
        "method": "egress",
        "environment": ALLOWED.environment_id,
        "outcome": "allowed",
        "rule": "*.test",
        "host": "a.test",
        "port": 443,
        "address": "8.8.8.8",
        "sent_bytes": 100,
        "received_bytes": 2_000,
        "duration_ms": 1_500.0,
        "more_in_last_second": 3,
    }
    refused = json.loads(egress_line(DENIED, NOW))
    assert (refused["outcome"], refused["address"], refused["sent_bytes"]) == ("private", None, 0)


def test_different_connections_have_a_line_each_and_equal_ones_a_sum() -> None:
    world = World()
    for egress in (ALLOWED, DENIED, ALLOWED, ALLOWED):
        world.lines(egress)
    assert world.written == [(ALLOWED, 0), (DENIED, 0)]
    world.seconds.pass_one()
    (summed, more) = world.written[2]
    assert (summed.decision, summed.sent, summed.received, more) == (
        ALLOWED.decision,
        200,
        4_000,
        1,
    )
    world.seconds.pass_one()
    assert len(world.written) == 3
    assert world.seconds.due == [], "nothing is kept of a quiet environment"


def test_a_flood_of_one_kind_is_a_line_a_second() -> None:
    world = World()
    for _ in range(5):
        for _ in range(1_000):
            world.lines(DENIED)
        world.seconds.pass_one()
    assert len(world.written) == 6
    assert sum(more + 1 for _, more in world.written) == 5_000


def test_a_flood_of_names_is_bounded_in_lines_memory_and_time() -> None:
    world = World()
    tracemalloc.start()
    try:
        began = time.process_time()
        for number in range(FLOOD):
            world.lines(denied(f"{number}.test"))
        spent = time.process_time() - began
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent < FLOOD * 100e-6  # tracing takes most of it
    assert held < 100_000
    assert len(world.written) == MOST_KINDS
    world.lines(denied("x.test", environment="another"))
    assert world.counts[-1] == ("x.test", 0), "it has lines of its own"
    world.seconds.pass_one()
    assert world.counts[-1] == ("", FLOOD - MOST_KINDS - 1)
    assert len(world.written) == MOST_KINDS + 2


def test_what_was_flushed_is_not_written_again() -> None:
    world = World()
    for _ in range(3):
        world.lines(DENIED)
    world.lines.flush()
    world.seconds.pass_one()
    assert [more for _, more in world.written] == [0, 1]


def test_what_is_counted_is_written_when_the_log_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, programs=False, now=lambda: NOW, monotonic=lambda: 0.0, later=Seconds())
    for _ in range(3):
        log.connection_ended(ALLOWED)
    log.close()
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("more_in_last_second", 0) for line in lines] == [0, 1]
    assert sum(line["sent_bytes"] for line in lines) == 300


def test_the_operator_can_leave_connections_out(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(
        path, programs=False, network=False, now=lambda: NOW, monotonic=lambda: 0.0, later=Seconds()
    )
    log.connection_ended(replace(ALLOWED))
    log.close()
    assert path.read_text() == ""
