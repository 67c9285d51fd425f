# SPDX-License-Identifier: Apache-2.0
"""The counters that the agent tells, against those of the kernel a moment before and after."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.agent_places import needs_root, with_directory
from tests.support.agent_program import Agent, running_agent

from waggle.infra.guest.protocol import METHODS, system

PROC = Path("/proc")
SECTOR = 512
TICKS = os.sysconf("SC_CLK_TCK")


def told(agent: Agent) -> system.Metrics:
    result = json.dumps(agent.result("get_metrics"))
    metrics = METHODS["get_metrics"].result.model_validate_json(result)
    assert isinstance(metrics, system.Metrics)
    return metrics


def cpu_seconds() -> system.Cpu:
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, kernel, idle, iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return system.Cpu(
        user=(user + nice) / TICKS,
        system=(kernel + irq + softirq) / TICKS,
        idle=idle / TICKS,
        iowait=iowait / TICKS,
        steal=steal / TICKS,
    )


def memory() -> dict[str, int]:
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines if len(fields) == 3}


def traffic() -> dict[str, list[int]]:
    lines = (PROC / "net/dev").read_text().splitlines()[2:]
    return {
        line.partition(":")[0].strip(): [int(field) for field in line.partition(":")[2].split()]
        for line in lines
    }


def disks() -> dict[str, list[int]]:
    lines = [line.split() for line in (PROC / "diskstats").read_text().splitlines()]
    return {fields[2]: [int(field) for field in fields[3:]] for fields in lines}


def test_processors_memory_and_load(agent: Agent) -> None:
    before, metrics, after = cpu_seconds(), told(agent), cpu_seconds()
    for field in system.Cpu.model_fields:
        if field != "iowait":  # the kernel lets it go back
            assert getattr(before, field) <= getattr(metrics.cpu, field) <= getattr(after, field)
    known = memory()
    assert metrics.memory.total_bytes == known["MemTotal"]
    assert metrics.memory.swap_total_bytes == known["SwapTotal"]
    assert metrics.memory.swap_free_bytes <= metrics.memory.swap_total_bytes
    room = known["MemTotal"] // 4
    assert abs(metrics.memory.free_bytes - known["MemFree"]) < room
    assert abs(metrics.memory.available_bytes - known["MemAvailable"]) < room
    assert abs(metrics.memory.cached_bytes - known["Cached"]) < room
    assert all(abs(a - b) < 2 for a, b in zip(metrics.load, os.getloadavg(), strict=True))
    assert abs(metrics.uptime - float((PROC / "uptime").read_text().split()[0])) < 5


def test_network_counters(agent: Agent) -> None:
    before, metrics, after = traffic(), told(agent), traffic()
    assert [one.name for one in metrics.network] == list(after)[:64]
    for one in metrics.network:
        old, new = before[one.name], after[one.name]
        assert old[0] <= one.received_bytes <= new[0]
        assert old[1] <= one.received_packets <= new[1]
        assert old[8] <= one.sent_bytes <= new[8]
        assert old[9] <= one.sent_packets <= new[9]
        assert old[2] + old[10] <= one.errors <= new[2] + new[10]


def test_disk_counters_are_of_whole_disks(agent: Agent) -> None:
    before, metrics, after = disks(), told(agent), disks()
    assert metrics.disks
    for one in metrics.disks:
        assert (Path("/sys/block") / one.name.replace("/", "!")).exists()
        old, new = before[one.name], after[one.name]
        assert old[0] <= one.reads <= new[0]
        assert old[2] * SECTOR <= one.read_bytes <= new[2] * SECTOR
        assert old[4] <= one.writes <= new[4]
        assert old[6] * SECTOR <= one.written_bytes <= new[6] * SECTOR
    idle = {name for name, fields in after.items() if fields[0] + fields[4] == 0}
    assert not {name for name in idle if name.startswith(("loop", "ram"))} & {
        one.name for one in metrics.disks
    }


def test_processes(agent: Agent) -> None:
    metrics = told(agent)
    here = sum(path.name.isdigit() for path in PROC.iterdir())
    assert abs(metrics.processes.total - here) < 100
    assert metrics.processes.running >= 1  # the agent itself


def test_pressure_is_as_the_kernel_says(agent: Agent) -> None:
    metrics = told(agent)
    for name in ("cpu", "memory", "io"):
        assert (getattr(metrics.pressure, name) is not None) == (PROC / "pressure" / name).exists()


@needs_root
@pytest.mark.parametrize(
    "lines, expected",
    [
        ("", None),
        ("some avg10=1.50 avg60=2.00 avg300=3.00 total=4\n", (1.5, 0.0)),
        (
            "some avg10=99.99 avg60=0.00 avg300=0.00 total=4\n"
            "full avg10=12.34 avg60=0.00 avg300=0.00 total=4\n",
            (99.99, 12.34),
        ),
    ],
    ids=["none", "some", "full"],
)
def test_pressure_is_the_last_ten_seconds(
    agent_program: Path, tmp_path: Path, lines: str, expected: tuple[float, float] | None
) -> None:
    (tmp_path / "cpu").write_text(lines)
    prefix = with_directory(tmp_path / "cpu", PROC / "pressure/cpu")
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        stall = told(agent).pressure.cpu
    assert (stall and (stall.some, stall.full)) == expected
