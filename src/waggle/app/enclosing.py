# SPDX-License-Identifier: Apache-2.0
"""The control groups that this server's machines get, or why they get none.

Used by the composition root. A system without cgroup v2 for us is no reason not to start: `waggle
doctor` says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import structlog

from waggle.app.hypervisors import EncloseMachine
from waggle.config import Settings
from waggle.domain.environment import Resources
from waggle.infra.shared.cgroup_plan import Nowhere, place
from waggle.infra.shared.cgroups import Groups, disk_of, read_facts

log = structlog.get_logger(__name__)


def machine_groups(settings: Settings, stack: contextlib.AsyncExitStack) -> EncloseMachine | None:
    """Make them, for as long as the stack lives; None without them, as `doctor` says."""
    found = place(read_facts())
    if isinstance(found, Nowhere):
        log.debug("machines_without_cgroups", why=found.problem, mend=found.mend)
        return None
    try:
        groups = Groups.open(
            found, device=disk_of(settings.data_dir), io_mib=settings.vm_disk_mb_per_second
        )
    except OSError as error:
        log.debug("machines_without_cgroups", why=f"{found.base}: {error.strerror}")
        return None
    stack.callback(groups.close)

    def enclose(resources: Resources, pid: int) -> Callable[[], None]:
        return groups.enclose(pid, memory_mib=resources.memory_mib, cpus=resources.cpus)

    return enclose
