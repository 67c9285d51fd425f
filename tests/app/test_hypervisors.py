# SPDX-License-Identifier: Apache-2.0
"""The choice of a hypervisor from the settings and the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from waggle.app.hypervisors import (
    ADAPTERS,
    Chosen,
    Running,
    guest_kernels,
    hypervisors,
    standing_by,
)
from waggle.config import load
from waggle.domain.errors import SetupIncomplete
from waggle.domain.hypervisor import ByHypervisor, HypervisorName
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.rootfs.kit import GuestKernel
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.version import Version, Vmm


def chosen(**settings: str) -> str:
    environ = {f"WAGGLE_{name.upper()}": value for name, value in settings.items()}
    return hypervisors(load({"HOME": "/root", **environ})).reason


def test_a_missing_qemu_is_refused_with_the_variable_to_set() -> None:
    with pytest.raises(SetupIncomplete, match="nope cannot be found") as caught:
        chosen(hypervisor="qemu", qemu_binary="nope")
    assert "WAGGLE_QEMU_BINARY" in caught.value.hint


@pytest.mark.parametrize("name", ["auto", "qemu"])
def test_a_reason_is_not_repeated(name: str) -> None:
    sentences = chosen(hypervisor=name, accel="tcg", qemu_binary="/bin/true").split(". ")
    assert len(sentences) == len(set(sentences))


def test_every_name_has_an_adapter() -> None:
    assert [*ADAPTERS] == [*HypervisorName]


def test_the_log_names_the_acceleration_and_what_each_can() -> None:
    environ = {
        "WAGGLE_HYPERVISOR": "qemu",
        "WAGGLE_ACCEL": "tcg",
        "WAGGLE_QEMU_BINARY": "/bin/true",
    }
    chosen = hypervisors(load({"HOME": "/root", **environ}))
    assert chosen.label == "qemu (tcg)"
    assert "can be frozen" in chosen.abilities["qemu (tcg)"]


@pytest.mark.parametrize(
    "names, kernel, needed",
    [
        ("qemu", "small", 1),
        ("qemu", "full", 2),
        ("cloud-hypervisor,qemu", "small", 3),
        ("firecracker,qemu", "full", 3),
        ("cloud-hypervisor,qemu", "full", 2),
        ("auto", "small", 1),
    ],
)
def test_the_kernels_of_all_named_ones_are_needed(names: str, kernel: str, needed: int) -> None:
    """The first runs new environments, so one kernel of the last would not do.

    The full one has an initramfs beside it.
    """
    environ = {
        "WAGGLE_HYPERVISOR": names,
        "WAGGLE_GUEST_KERNEL": kernel,
        "WAGGLE_QEMU_BINARY": "/bin/true",
    }
    assert len(guest_kernels(load({"HOME": "/root", **environ}))) == needed


@pytest.mark.anyio
async def test_a_guard_waits_as_long_as_the_server_runs(tmp_path: Path) -> None:
    binary = Binary(
        Vmm.FIRECRACKER, Version.parse("1.13.1"), "x86_64", tmp_path / "firecracker", "a" * 64
    )
    made = FirecrackerHypervisor(
        lambda _vmm: binary, lambda _vmm, _digest, _version: binary, jailed=False
    )
    running = ByHypervisor(Running(made, made.name, GuestKernel(tmp_path)))
    assert not made.standby.is_there
    async with standing_by(Chosen(running, "it is the only one")):
        assert made.standby.is_there
    assert not made.standby.is_there
