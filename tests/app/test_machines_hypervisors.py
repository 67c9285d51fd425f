# SPDX-License-Identifier: Apache-2.0
"""The choice of a hypervisor from the settings and the host."""

from __future__ import annotations

import pytest

from waggle.app.machines import hypervisor
from waggle.config import load
from waggle.domain.errors import SetupIncomplete


def chosen(**settings: str) -> str:
    environ = {f"WAGGLE_{name.upper()}": value for name, value in settings.items()}
    return hypervisor(load({"HOME": "/root", **environ})).reason


def test_a_missing_qemu_is_refused_with_the_variable_to_set() -> None:
    with pytest.raises(SetupIncomplete, match="nope cannot be found") as caught:
        chosen(hypervisor="qemu", qemu_binary="nope")
    assert "WAGGLE_QEMU_BINARY" in caught.value.hint


@pytest.mark.parametrize("name", ["auto", "qemu"])
def test_a_reason_is_not_repeated(name: str) -> None:
    sentences = chosen(hypervisor=name, accel="tcg", qemu_binary="/bin/true").split(". ")
    assert len(sentences) == len(set(sentences))
