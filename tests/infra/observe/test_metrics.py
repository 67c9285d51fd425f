# SPDX-License-Identifier: Apache-2.0
"""The content of /metrics after calls and events; it names no owner and no program."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from tests.infra.observe.parts import ALLOWED, CALL, DENIED

from waggle.domain.environment import State
from waggle.domain.guest_agent import GuestTotals
from waggle.domain.network.traffic import Traffic
from waggle.infra.observe.metrics import Metrics


def samples(metrics: Metrics, sessions: int = 0) -> dict[str, float]:
    """Return every sample by `name{label=value}`, without buckets."""
    text = metrics.scrape(sessions)[0].decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_calls_and_events_are_counted() -> None:
    metrics = Metrics(list, 10)
    metrics.call_ended(CALL)
    metrics.call_ended(replace(CALL, seconds=2, outcome="timeout"))
    metrics.call_ended(replace(CALL, tool="", method="resources/read", outcome="not_found"))
    metrics.environment_created(6)
    metrics.create_failed("boot_failed")
    metrics.environment_reaped()
    metrics.connection_ended(DENIED)
    metrics.connection_ended(ALLOWED)
    values = samples(metrics)
    assert values["waggle_tool_calls_total{outcome=ok,tool=execute}"] == 1
    assert values["waggle_tool_calls_total{outcome=timeout,tool=execute}"] == 1
    assert values["waggle_tool_call_seconds_count{tool=execute}"] == 2
    assert values["waggle_resource_requests_total{method=resources/read,outcome=not_found}"] == 1
    assert values["waggle_resource_request_seconds_count{method=resources/read}"] == 1
    assert values["waggle_environment_create_seconds_sum"] == 6
    assert values["waggle_environment_create_failures_total{code=boot_failed}"] == 1
    assert values["waggle_environments_reaped_total"] == 1
    assert values["waggle_egress_denied_total{why=private}"] == 1


def test_gauges_are_read_at_the_scrape() -> None:
    states = [State.RUNNING, State.RUNNING, State.ERROR]
    waiting = {"python": 2, "node": 0}
    traffic = Traffic()
    metrics = Metrics(lambda: states, 10, lambda: waiting, traffic)
    values = samples(metrics, sessions=3)
    assert values["waggle_environments{state=running}"] == 2
    assert values["waggle_environments{state=creating}"] == 0
    assert (values["waggle_environments_max"], values["waggle_sessions"]) == (10, 3)
    assert values["waggle_warm_machines{runtime=python}"] == 2
    assert values["waggle_warm_machines{runtime=node}"] == 0
    traffic.to_guest, traffic.to_internet, traffic.connections = 5_000_000, 70, 9
    traffic.refused, traffic.open = 3, 2
    values = samples(metrics)
    assert values["waggle_egress_bytes_total{direction=to_guest}"] == 5_000_000
    assert values["waggle_egress_bytes_total{direction=to_internet}"] == 70
    assert values["waggle_egress_connections_total"] == 9
    assert (values["waggle_egress_refused_total"], values["waggle_egress_open"]) == (3, 2)
    states.clear()
    assert samples(metrics)["waggle_environments{state=running}"] == 0


def test_metrics_name_no_owner_environment_or_program() -> None:
    metrics = Metrics(list, 10)
    metrics.call_ended(CALL)
    text = metrics.scrape(0)[0].decode()
    for secret in ("ann", str(CALL.environment_id), "127.0.0.1", "print"):
        assert secret not in text


def test_two_servers_in_one_process_share_no_metrics() -> None:
    one, other = Metrics(list, 1), Metrics(list, 2)
    one.environment_reaped()
    assert samples(other)["waggle_environments_reaped_total"] == 0


def test_what_guests_say_is_read_at_the_scrape() -> None:
    said = GuestTotals(
        answering=3,
        lost=1,
        memory_total=1 << 30,
        memory_available=1 << 29,
        processes=40,
        load=1.5,
        stalled=2,
    )
    totals = [GuestTotals()]
    metrics = Metrics(list, 10, guests=lambda: totals[-1])
    assert samples(metrics)["waggle_guest_agents{state=answering}"] == 0
    totals.append(said)
    found = {name: value for name, value in samples(metrics).items() if "_guest_" in name}
    assert found == {
        "waggle_guest_agents{state=answering}": 3,
        "waggle_guest_agents{state=lost}": 1,
        "waggle_guest_memory_bytes{kind=total}": 1 << 30,
        "waggle_guest_memory_bytes{kind=available}": 1 << 29,
        "waggle_guest_processes": 40,
        "waggle_guest_load": 1.5,
        "waggle_guest_memory_stalled": 2,
    }
