# SPDX-License-Identifier: Apache-2.0
"""Which QEMU a frozen machine is locked to; `tests/vm/test_freezing.py` resumes some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.qemu.frozen import program_digest
from waggle.infra.qemu.hypervisor import QemuHypervisor


@dataclass
class Frozen:
    """A state, of which only its QEMU is asked."""

    vmm: str


def program(path: Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return str(path)


def facts(hypervisor: QemuHypervisor, binary: str) -> dict[str, str]:
    """Return what a machine is locked to that this QEMU froze."""
    return dict(hypervisor.fingerprint(cast("Any", Frozen(program_digest(binary)))))


@pytest.mark.parametrize("gone", [False, True])
def test_a_state_is_locked_to_the_program_that_made_it_alone(tmp_path: Path, gone: bool) -> None:
    """Whether the one that boots machines is another, or is being replaced."""
    newest, older = program(tmp_path / "new", "10.1"), program(tmp_path / "old", "10.0")
    machines = QemuHypervisor(newest, "tcg", older=[older])
    theirs = facts(machines, older)
    if gone:
        Path(newest).unlink()
    assert machines.lock(theirs) is None
    assert machines.lock({**theirs, "cpu": "another"}) == "processor"
    assert machines.lock({**theirs, "more": "facts"}) == "more"
    assert machines.lock({**theirs, "vmm": "0" * 16}) == "version of QEMU"
    del theirs["vmm"]
    assert machines.lock(theirs) == "version of QEMU"


def test_a_program_that_is_replaced_takes_its_states_along(tmp_path: Path) -> None:
    """Unless the operator keeps a copy of it."""
    newest = program(tmp_path / "new", "10.1")
    theirs = facts(QemuHypervisor(newest, "tcg"), newest)
    kept = tmp_path / "kept"
    Path(newest).rename(kept)
    program(tmp_path / "new", "10.2")
    assert QemuHypervisor(newest, "tcg").lock(theirs) == "version of QEMU"
    assert QemuHypervisor(newest, "tcg", older=[str(kept)]).lock(theirs) is None


def test_a_program_that_cannot_be_read_is_said_to_be_missing(tmp_path: Path) -> None:
    """A directory of its name, here: it cannot be read by anybody."""
    (tmp_path / "qemu").mkdir()
    with pytest.raises(SetupIncomplete, match="There is no QEMU"):
        program_digest(str(tmp_path / "qemu"))
