# SPDX-License-Identifier: Apache-2.0
"""What tests of a real Firecracker alone share: where they run, and copies of machines."""

from __future__ import annotations

import pytest
from tests.contract.subjects import Case, Subject, real_hypervisors

from waggle.domain.machine import FrozenState, Machine
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.shared.sparse import clone

ON_FIRECRACKER = [
    pytest.mark.anyio,
    pytest.mark.timeout(400),
    pytest.mark.vm,
    pytest.mark.skipif(
        "firecracker" not in real_hypervisors(), reason="NOT TESTED: no Firecracker with KVM here"
    ),
]


def hypervisor(subject: Subject) -> FirecrackerHypervisor:
    assert isinstance(subject.hypervisor, FirecrackerHypervisor)
    return subject.hypervisor


async def copy_of(subject: Subject, origin: Case) -> Case:
    """Return a case whose scratch disk is a copy."""
    case = await subject.case()
    case.spec.disks.scratch.unlink()
    clone(origin.spec.disks.scratch, case.spec.disks.scratch)
    case.keys = origin.keys
    return case


async def resumed(subject: Subject, case: Case, frozen: FrozenState) -> Machine:
    machine = await hypervisor(subject).resume(case.spec, frozen)
    subject.machines.append(machine)
    await machine.renew({})
    return machine
