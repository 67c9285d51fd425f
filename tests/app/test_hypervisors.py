# SPDX-License-Identifier: Apache-2.0
"""The hypervisor that settings and machine call for."""

from __future__ import annotations

import pytest

from waggle.app.machines import hypervisor
from waggle.config import load
from waggle.domain.errors import SetupIncomplete


def chosen(**settings: str) -> str:
    environ = {f"WAGGLE_{name.upper()}": value for name, value in settings.items()}
    return hypervisor(load({"HOME": "/root", **environ})).reason


def test_a_qemu_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(SetupIncomplete, match="nope cannot be found") as caught:
        chosen(hypervisor="qemu", qemu_binary="nope")
    assert "WAGGLE_QEMU_BINARY" in caught.value.hint


@pytest.mark.parametrize("name", ["auto", "qemu"])
def test_each_reason_is_told_once(name: str) -> None:
    sentences = chosen(hypervisor=name, accel="tcg", qemu_binary="/bin/true").split(". ")
    assert len(sentences) == len(set(sentences))
