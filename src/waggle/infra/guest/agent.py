# SPDX-License-Identifier: Apache-2.0
"""The agent of a machine's guest, as the domain sees it: `domain.guest_agent.GuestAgent`.

Used by the machines of all hypervisors. Turns the protocol's results into the domain's reports, and
keeps of the guest's words what is shown: clean, and not much. Knows neither transport nor
hypervisor.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from waggle.domain.guest_agent import GuestFilesystem, GuestLoad, GuestReport, RunsPrograms
from waggle.infra.guest.answers import clean
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import system
from waggle.infra.guest.protocol.audit import Audit
from waggle.tasks import end

log = structlog.get_logger(__name__)

MAX_SHOWN: Final = 8
"""Entries of each list in a report."""
_MAX_NAME = 64
_IN_MEMORY = ("tmpfs", "devtmpfs", "ramfs")
_OF_THE_KIT = "/.waggle"


class MachineAgent(AgentClient):
    """The client of a guest's agent, with its reports."""

    async def load(self) -> GuestLoad:
        """Ask how busy the guest is; see `GuestAgent.load`."""
        return load_of(await self.metrics())

    async def clock(self) -> int:
        """Ask for the guest's time; see `GuestAgent.clock`."""
        return (await self.system_info()).time

    async def report(self) -> GuestReport:
        """Ask for everything; see `GuestAgent.report`."""
        asked = (
            asyncio.ensure_future(self.system_info()),
            asyncio.ensure_future(self.metrics()),
            asyncio.ensure_future(self.network_info()),
            asyncio.ensure_future(self.users()),
            asyncio.ensure_future(self.disk_usage()),
        )
        try:
            return report_of(*await asyncio.gather(*asked))
        finally:
            await end(*asked)  # of one that was refused, the others may never be answered


def report_of(
    about: system.SystemInfo,
    metrics: system.Metrics,
    network: system.NetworkInfo,
    users: system.Users,
    disks: system.DiskUsage,
) -> GuestReport:
    """Return what is kept of a guest's words. Pure."""
    return GuestReport(
        system=_short(about.os.pretty_name or about.os.name),
        kernel=_short(about.kernel),
        hostname=_short(about.hostname),
        uptime=about.uptime,
        clock=about.time,
        load=load_of(metrics),
        filesystems=tuple(
            GuestFilesystem(_short(found.mount_point), found.total_bytes, found.used_bytes)
            for found in _disks(disks)
        ),
        addresses=_addresses(network),
        users=tuple(
            RunsPrograms(_short(user.name), user.processes) for user in users.users[:MAX_SHOWN]
        ),
    )


def log_audit(said: Audit) -> None:
    """Log what an agent notes of its requests. The guest may have made it up."""
    log.debug("agent_request", method=said.method, outcome=said.outcome, subject=said.subject)


def load_of(metrics: system.Metrics) -> GuestLoad:
    """Return the load that the counters tell. Pure."""
    memory, cpu, stalled = metrics.memory, metrics.cpu, metrics.pressure.memory
    return GuestLoad(
        memory_total=memory.total_bytes,
        memory_available=memory.available_bytes,
        load=metrics.load[0],
        processes=metrics.processes.total,
        cpu_seconds=cpu.user + cpu.system,
        stalled=None if stalled is None else stalled.some,
    )


def _disks(found: system.DiskUsage) -> list[system.Filesystem]:
    """Return the file systems that programs can fill: not those in memory, nor the kit's.

    Of those with the same numbers, which are one disk at several places, the shortest path.
    """
    shown: dict[tuple[int, ...], system.Filesystem] = {}
    for one in sorted(found.filesystems, key=lambda disk: len(disk.mount_point)):
        if (
            not one.read_only
            and one.type not in _IN_MEMORY
            and not one.mount_point.startswith(_OF_THE_KIT)
        ):
            shown.setdefault((one.total_bytes, one.used_bytes, one.inodes, one.inodes_free), one)
    return [*shown.values()][:MAX_SHOWN]


def _addresses(network: system.NetworkInfo) -> tuple[str, ...]:
    """Return the addresses by which others could reach the guest: not those of its loopback."""
    found = [
        f"{_short(interface.name)} {_short(address)}"
        for interface in network.interfaces
        if interface.name != "lo"
        for address in interface.addresses
    ]
    return tuple(found[:MAX_SHOWN])


def _short(text: str) -> str:
    return clean(text, _MAX_NAME)
