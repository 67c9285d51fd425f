# SPDX-License-Identifier: Apache-2.0
"""Rules about memory, processes and disks that ran out. Pure."""

from __future__ import annotations

from waggle.domain.diagnosis.evidence import Evidence, Space
from waggle.domain.diagnosis.told import Diagnosis, mib

_FULL_BYTES = 64 << 10
"""A file system with less than this free is full: blocks that large are rarely left over."""
_FULL_INODES = 1
_MANY_SHARED = 0.25
_SHM = "/dev/shm"  # noqa: S108 - a name in a sentence


def out_of_memory(evidence: Evidence) -> Diagnosis | None:
    """The kernel killed processes of this run for memory."""
    record = evidence.record
    if record.oom_kills < 1:
        return None
    limit = f", of which programs share {mib(record.memory_limit)}" if record.memory_limit else ""
    most = f" This run used up to {mib(record.memory_peak)} MiB." if record.memory_peak else ""
    advice = "Use less memory: read data in pieces, run fewer processes at once."
    if record.memory_shared > _MANY_SHARED * max(record.memory_limit, 1):
        advice = (
            f"Delete files in {_SHM} and other memory file systems, which hold "
            f"{mib(record.memory_shared)} MiB, or use less memory otherwise."
        )
    return Diagnosis(
        "out_of_memory",
        f"Out of memory at {evidence.memory_mib} MiB{limit}: the guest's kernel killed the run."
        f"{most}",
        f"{advice} {more_memory(evidence)}",
    )


def more_memory(evidence: Evidence) -> str:
    """The call that mends it."""
    return f"Or take one with more: create_environment with memory_mb={2 * evidence.memory_mib}."


def more_disk(evidence: Evidence) -> str:
    """What makes room on the disk, or the call that mends it."""
    return (
        "Delete what is not needed (du -x -d 3 -m / | sort -n shows what is large). Or take one "
        f"with more: create_environment with disk_mb={2 * evidence.disk_mib}."
    )


def too_many_processes(evidence: Evidence) -> Diagnosis | None:
    """Forks were refused."""
    record = evidence.record
    if record.forks_refused < 1:
        return None
    return Diagnosis(
        "too_many_processes",
        f"While it ran, the environment was at its limit of {record.process_limit} processes and "
        f"threads; {record.forks_refused} more were refused.",
        "Start fewer at once and wait for their end; read_job with kill ends those that still run.",
    )


def is_full(evidence: Evidence) -> bool:
    """Whether nothing more can be written to the disk."""
    disk, inodes = evidence.record.disk, evidence.record.inodes
    return (disk is not None and disk.free < _FULL_BYTES) or (
        inodes is not None and inodes.total > 0 and inodes.free < _FULL_INODES
    )


def disk_full(evidence: Evidence) -> Diagnosis | None:
    """Nothing more can be written to the disk."""
    disk, inodes = evidence.record.disk, evidence.record.inodes
    if not is_full(evidence):
        return None
    if disk is not None and disk.free < _FULL_BYTES:
        what = f"The disk is full: {_room(disk)}"
    else:
        most = inodes.total if inodes else 0
        what = f"The disk has no room for another file: all {most:,} are taken"
    return Diagnosis(
        "disk_full",
        f"{what}. Writing fails.",
        more_disk(evidence),
    )


def _room(space: Space) -> str:
    return f"{mib(space.free)} of {mib(space.total)} MiB are free"


def memory_files_full(evidence: Evidence) -> Diagnosis | None:
    """Nothing more can be written to the file system in memory."""
    shm = evidence.record.shm
    if shm is None or shm.total == 0 or shm.free >= _FULL_BYTES:
        return None
    return Diagnosis(
        "disk_full",
        f"{_SHM} is full: {_room(shm)}. Writing there fails.",
        "Delete what is not needed there, or write to the disk: /tmp and the home directory.",
    )
