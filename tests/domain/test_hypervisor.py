# SPDX-License-Identifier: Apache-2.0
"""The hypervisors of one server: which runs a new environment, and which an older one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import Unsupported
from waggle.domain.hypervisor import ByHypervisor, HypervisorName, in_words, parse_hypervisor
from waggle.domain.machine import Capabilities, Hypervisor


@dataclass(frozen=True)
class Vmm:
    name: str
    freezes: bool = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(freezes=self.freezes, stops_when_full=False)


@dataclass(frozen=True)
class Part:
    vmm: Vmm
    others: list[int] = field(default_factory=list[int])

    @property
    def hypervisor(self) -> Hypervisor:
        return cast("Any", self.vmm)


@given(st.lists(st.builds(Vmm, st.sampled_from("abcdef"), st.booleans()), min_size=1, unique_by=id))
def test_every_request_gets_the_first_that_can(vmms: list[Vmm]) -> None:
    vmms = [*{vmm.name: vmm for vmm in vmms}.values()]
    own = ByHypervisor(*map(Part, vmms))
    assert own.for_new(snapshots=False).vmm is vmms[0]
    able = [vmm for vmm in vmms if vmm.freezes]
    if able:
        assert own.for_new(snapshots=True).vmm is able[0]
    else:
        assert own.freezing is None
        with pytest.raises(Unsupported) as refusal:
            own.for_new(snapshots=True)
        assert "WAGGLE_HYPERVISOR" in refusal.value.hint
        assert "Leave out snapshots." in refusal.value.hint
    for vmm in vmms:
        assert own.of(vmm.name).vmm is vmm
        assert vmm.name in own


def test_one_that_is_not_there_any_more_is_named_with_the_next_step() -> None:
    own = ByHypervisor(Part(Vmm("qemu")))
    assert "krun" not in own
    with pytest.raises(Unsupported, match="the hypervisor krun, which this server") as refusal:
        own.of("krun")
    assert "add krun to WAGGLE_HYPERVISOR" in refusal.value.hint
    assert own.of("").vmm.name == "qemu", "no name was chosen"


@pytest.mark.parametrize("name", ["", "QEMU", "a" * 33, "qemu\n", "-", "a b", None, 3, ["qemu"]])
def test_a_manifest_cannot_name_just_anything(name: object) -> None:
    with pytest.raises(ValueError, match="no hypervisor"):
        parse_hypervisor(name)


def test_every_name_can_be_in_a_manifest() -> None:
    assert [parse_hypervisor(name.value) for name in HypervisorName] == [*HypervisorName]


def test_capabilities_are_said_in_words() -> None:
    assert in_words(Capabilities(freezes=False, stops_when_full=False)) == (
        "cannot be frozen (no snapshots, forks, templates, pauses to disk)"
    )
    breaks = Capabilities(
        freezes=True, stops_when_full=False, keeps_connections=False, containers=True
    )
    assert "lose their connections then" in in_words(breaks)
    assert "run containers" in in_words(breaks)
    assert "wait while the disk is full" in in_words(
        Capabilities(freezes=True, stops_when_full=True)
    )
