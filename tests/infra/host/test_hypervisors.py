# SPDX-License-Identifier: Apache-2.0
"""libkrun or QEMU: the decision for every setting and every host, with its reason."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import SettingsInvalid, SetupIncomplete
from waggle.infra.host.hypervisors import (
    AccelSetting,
    Choice,
    HypervisorSetting,
    KvmFacts,
    Library,
    choose_acceleration,
    choose_hypervisor,
)

KVM = Choice("kvm", "/dev/kvm opens and the CPU virtualises.")
NO_KVM = Choice("tcg", "/dev/kvm cannot be used: No such file or directory.")
FORBIDDEN = choose_acceleration("tcg", KvmFacts("", cpu_virtualises=True))
THERE = Library("", "")
OLD = Library("libkrun is too old: it has no krun_add_vsock.", "Use libkrun 1.17 or later.")


@pytest.mark.parametrize(
    "setting,acceleration,library,name,words",
    [
        ("auto", KVM, THERE, "krun", ("libkrun is installed", "CPU virtualises")),
        ("auto", KVM, OLD, "qemu", ("krun cannot be used", "too old")),
        ("auto", NO_KVM, THERE, "qemu", ("krun needs KVM", "No such file")),
        ("auto", NO_KVM, OLD, "qemu", ("krun needs KVM",)),
        ("auto", FORBIDDEN, THERE, "qemu", ("krun needs KVM", "WAGGLE_ACCEL=tcg")),
        ("qemu", KVM, THERE, "qemu", ("WAGGLE_HYPERVISOR=qemu",)),
        ("qemu", NO_KVM, OLD, "qemu", ("WAGGLE_HYPERVISOR=qemu",)),
        ("krun", KVM, THERE, "krun", ("WAGGLE_HYPERVISOR=krun",)),
    ],
)
def test_the_choice_comes_with_its_reasons(
    setting: HypervisorSetting,
    acceleration: Choice,
    library: Library,
    name: str,
    words: tuple[str, ...],
) -> None:
    choice = choose_hypervisor(setting, acceleration, library)
    assert choice.name == name
    assert all(word in choice.reason for word in words)


def test_required_krun_without_its_library_gives_the_fix() -> None:
    for acceleration in (KVM, NO_KVM, FORBIDDEN):
        with pytest.raises(SetupIncomplete, match="too old") as caught:
            choose_hypervisor("krun", acceleration, OLD)
        assert caught.value.hint == OLD.mend


def test_required_krun_without_kvm_explains_why_kvm_is_missing() -> None:
    with pytest.raises(SetupIncomplete, match=r"krun needs KVM\..*No such file") as caught:
        choose_hypervisor("krun", NO_KVM, THERE)
    assert "WAGGLE_HYPERVISOR=qemu" in caught.value.hint


def test_required_krun_with_kvm_forbidden_is_a_contradiction() -> None:
    with pytest.raises(SettingsInvalid, match="WAGGLE_ACCEL=tcg forbids it"):
        choose_hypervisor("krun", FORBIDDEN, THERE)


@given(
    setting=st.sampled_from(get_args(HypervisorSetting)),
    accel=st.sampled_from(get_args(AccelSetting)),
    facts=st.builds(KvmFacts, st.sampled_from(["", "denied"]), st.booleans(), st.booleans()),
    library=st.sampled_from([THERE, OLD]),
)
def test_krun_is_chosen_only_where_it_can_run(
    setting: HypervisorSetting, accel: AccelSetting, facts: KvmFacts, library: Library
) -> None:
    try:
        acceleration = choose_acceleration(accel, facts)
    except SetupIncomplete:
        return
    try:
        choice = choose_hypervisor(setting, acceleration, library)
    except (SetupIncomplete, SettingsInvalid):
        assert setting == "krun"
        return
    if choice.name == "krun":
        assert acceleration.accel == "kvm"
        assert not library.problem
        assert setting != "qemu"
    else:
        assert setting != "krun"
    assert choice.reason.endswith(".")
