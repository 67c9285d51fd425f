# SPDX-License-Identifier: Apache-2.0
"""What a guest says of itself, in the state of an environment. Pure.

Used by `mcp.results.state`. All of it is the guest's own word, and marked as that.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from waggle.domain.guest_agent import GuestReport

LOST = (
    "Its guest agent does not answer, and was started again; if programs fail, too, "
    "restart_environment boots it again with its files."
)


class GuestDisk(BaseModel):
    """A mounted file system."""

    mount_point: str = ""
    total_bytes: int = 0
    used_bytes: int = 0


class GuestSays(BaseModel):
    """What the guest says of itself; whoever is root in it can have it say anything."""

    system: str = Field(default="", description="Its operating system.")
    kernel: str = ""
    uptime_seconds: int = 0
    memory_bytes: int = 0
    memory_available_bytes: int = 0
    load: float = Field(default=0.0, description="Average of the last minute.")
    processes: int = 0
    disks: list[GuestDisk] = Field(default_factory=list[GuestDisk])
    addresses: list[str] = Field(default_factory=list[str], description="Beside its loopback's.")
    users: list[str] = Field(default_factory=list[str], description="Who runs how many processes.")


def guest_says(report: GuestReport | None) -> GuestSays | None:
    """Return the item for a report."""
    if report is None:
        return None
    load = report.load
    return GuestSays(
        system=report.system,
        kernel=report.kernel,
        uptime_seconds=int(report.uptime),
        memory_bytes=load.memory_total,
        memory_available_bytes=load.memory_available,
        load=round(load.load, 2),
        processes=load.processes,
        disks=[
            GuestDisk(mount_point=found.mount_point, total_bytes=found.total, used_bytes=found.used)
            for found in report.filesystems
        ],
        addresses=[*report.addresses],
        users=[f"{user.name} {user.processes}" for user in report.users],
    )


def guest_lines(said: GuestSays | None) -> list[str]:
    """Return it as one line of text, or none."""
    if said is None:
        return []
    of = f" ({', '.join(said.users)})" if said.users else ""
    memory = f"{_mib(said.memory_available_bytes)} of {_mib(said.memory_bytes)}"
    about = [said.system] if said.system else []
    about += [f"kernel {said.kernel}"] if said.kernel else []
    parts = [
        ", ".join([*about, f"up {said.uptime_seconds} s"]),
        f"memory {memory} free",
        f"load {said.load}, {said.processes} processes{of}",
        *(
            f"{disk.mount_point} {_mib(disk.used_bytes)} of {_mib(disk.total_bytes)} used"
            for disk in said.disks
        ),
    ]
    parts += [f"addresses {', '.join(said.addresses)}"] if said.addresses else []
    return [f"it says itself: {'; '.join(parts)}"]


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
