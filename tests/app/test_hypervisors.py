# SPDX-License-Identifier: Apache-2.0
"""The choice of a hypervisor from the settings and the host."""

from __future__ import annotations

import pytest

from waggle.app.hypervisors import ADAPTERS, guest_kernels, hypervisors
from waggle.config import load
from waggle.domain.errors import SetupIncomplete
from waggle.domain.hypervisor import HypervisorName


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
