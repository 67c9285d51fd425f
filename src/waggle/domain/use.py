# SPDX-License-Identifier: Apache-2.0
"""What machines and environments use of a host, as the host counts it. Passed on by `host`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """A machine's use of the host, which counts it: the guest is not asked, so cannot lie or hang.

    `cpu_seconds` is the processor time of the VMM since its start, `memory_bytes` its resident
    memory now, `disk_bytes` what the scratch disk takes on the host's disk.
    """

    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of the disk that holds the environments: free, and used by environment id.

    `of_disks` is the part that a copy of a running one needs: its own disk, without the memory that
    it has resumed from.
    """

    free: int
    of_environments: Mapping[str, int]
    of_disks: Mapping[str, int]
