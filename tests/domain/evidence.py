# SPDX-License-Identifier: Apache-2.0
"""Evidence of a failed run, to be changed by tests of diagnoses."""

from __future__ import annotations

from dataclasses import replace

from waggle.domain.diagnosis import Diagnosis, Evidence, RunFacts, Space
from waggle.domain.diagnosis.rules import diagnose
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName

MIB = 1 << 20
FAILED = Evidence(
    program="prog",
    exit_code=1,
    signal=None,
    memory_mib=512,
    disk_mib=1024,
    network=PUBLIC_NETWORK,
    record=RunFacts(
        exit_code=1,
        memory_limit=460 * MIB,
        disk=Space(500 * MIB, 1000 * MIB),
        inodes=Space(1000, 2000),
        shm=Space(9 * MIB, 9 * MIB),
        process_limit=1024,
    ),
)


DEBIAN = frozenset({"apt-get", "bash", "python3", "pip3", "pip", "sudo"})


def failed(said: str = "", have: frozenset[str] | None = DEBIAN, **more: object) -> Evidence:
    made = replace(
        FAILED, said=said, record=replace(FAILED.record, have=have), runtime=RuntimeName.PYTHON
    )
    return replace(made, **more)  # pyright: ignore[reportArgumentType] - fields by name


def diagnosis_of(evidence: Evidence) -> Diagnosis:
    found = diagnose(evidence)
    assert found
    return found
