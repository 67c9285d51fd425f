# SPDX-License-Identifier: Apache-2.0
"""What a Cloud Hypervisor is limited to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.infra.vmm.pretended import MIB, spec_in

from waggle.domain.errors import BootFailed
from waggle.domain.machine import Resources
from waggle.infra.cloud_hypervisor.hypervisor import CloudHypervisor
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
BINARY = Binary(Vmm.CLOUD_HYPERVISOR, Version(53, 0, 0), "x86_64", Path("/no/such/vmm"), "a" * 64)


async def test_a_copys_memory_fits_twice_because_its_snapshot_lies_in_its_run(
    tmp_path: Path,
) -> None:
    seen: list[Resources] = []

    def enclose(resources: Resources, _pid: int) -> Callable[[], None]:
        seen.append(resources)
        return lambda: None

    machines = CloudHypervisor(
        lambda _vmm: BINARY, lambda _vmm, _digest, _version: BINARY, enclose=enclose
    )
    spec = spec_in(tmp_path)
    spec.kernel.with_suffix(".initrd").write_bytes(b"initrd")
    with pytest.raises(BootFailed):
        await machines.boot(spec)
    (limits,) = seen
    assert limits.memory_mib == 2 * MIB
    assert limits.cpus == spec.resources.cpus
