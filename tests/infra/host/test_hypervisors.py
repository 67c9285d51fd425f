# SPDX-License-Identifier: Apache-2.0
"""Which hypervisors run machines: the decision for every setting and every host, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import SettingsInvalid, SetupIncomplete
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.machine import Capabilities
from waggle.infra.host.hypervisors import (
    AccelSetting,
    Candidate,
    Choice,
    KvmFacts,
    Preference,
    choose_acceleration,
    choose_hypervisors,
)

KVM = Choice("kvm", "/dev/kvm opens and the CPU virtualises.")
NO_KVM = Choice("tcg", "/dev/kvm cannot be used: No such file or directory.")
FORBIDDEN = choose_acceleration("tcg", KvmFacts("", cpu_virtualises=True))
PLAIN = Capabilities(freezes=False, stops_when_full=False)
FREEZES = Capabilities(freezes=True, stops_when_full=True)
KRUN, QEMU = HypervisorName.KRUN, HypervisorName.QEMU
OLD = "libkrun is too old: it has no krun_add_vsock."
NONE = "there is no QEMU: qemu cannot be found."
BOTH = {
    KRUN: Candidate(PLAIN, needs_kvm=True, mend="Use libkrun 1.17 or later."),
    QEMU: Candidate(FREEZES, needs_kvm=False, mend="Run 'waggle setup'."),
}


def lacking(**problems: str) -> dict[HypervisorName, Candidate]:
    return {name: replace(one, problem=problems.get(name, "")) for name, one in BOTH.items()}


@pytest.mark.parametrize(
    "acceleration,candidates,prefer,names,reason",
    [
        (KVM, BOTH, "isolation", [KRUN, QEMU], f"krun can be used. {KVM.reason}"),
        (
            *(KVM, BOTH, "speed", [QEMU, KRUN]),
            "WAGGLE_PREFER=speed: first those whose machines can be frozen. qemu can be used. "
            + KVM.reason,
        ),
        (
            *(KVM, lacking(krun=OLD), "isolation", [QEMU]),
            f"krun cannot be used: {OLD} qemu can be used. {KVM.reason}",
        ),
        (
            *(KVM, lacking(qemu=NONE), "speed", [KRUN]),
            f"qemu cannot be used: {NONE} krun can be used. {KVM.reason}",
        ),
        (NO_KVM, BOTH, "isolation", [QEMU], f"krun needs KVM. {NO_KVM.reason}"),
        (NO_KVM, lacking(krun=OLD), "speed", [QEMU], f"krun needs KVM. {NO_KVM.reason}"),
        (FORBIDDEN, BOTH, "speed", [QEMU], f"krun needs KVM. {FORBIDDEN.reason}"),
    ],
)
def test_auto_takes_all_that_can_be_used_in_order(
    acceleration: Choice,
    candidates: Mapping[HypervisorName, Candidate],
    prefer: Preference,
    names: list[HypervisorName],
    reason: str,
) -> None:
    decision = choose_hypervisors((), acceleration, candidates, prefer)
    assert ([*decision.names], decision.reason) == (names, reason)


def test_without_any_the_one_that_runs_anywhere_is_to_be_installed() -> None:
    for acceleration in (NO_KVM, FORBIDDEN, KVM):
        with pytest.raises(SetupIncomplete, match="there is no QEMU") as caught:
            choose_hypervisors((), acceleration, lacking(krun=OLD, qemu=NONE))
        assert caught.value.hint == "Run 'waggle setup'."


@pytest.mark.parametrize("prefer", get_args(Preference))
def test_a_list_is_taken_as_it_is(prefer: Preference) -> None:
    for names in ((KRUN, QEMU), (QEMU, KRUN), (KRUN,), (QEMU,)):
        decision = choose_hypervisors(names, KVM, BOTH, prefer)
        assert decision.names == names
        assert f"WAGGLE_HYPERVISOR={','.join(names)} demands" in decision.reason


def test_a_demanded_one_that_lacks_something_gives_the_fix() -> None:
    for wanted in ((KRUN,), (QEMU, KRUN)):
        for acceleration in (KVM, NO_KVM, FORBIDDEN):
            with pytest.raises(SetupIncomplete, match="too old") as caught:
                choose_hypervisors(wanted, acceleration, lacking(krun=OLD))
            assert caught.value.hint == BOTH[KRUN].mend


def test_a_demanded_one_without_kvm_explains_why_kvm_is_missing() -> None:
    with pytest.raises(SetupIncomplete, match=r"krun needs KVM\..*No such file") as caught:
        choose_hypervisors((QEMU, KRUN), NO_KVM, BOTH)
    assert caught.value.message.startswith("WAGGLE_HYPERVISOR=qemu,krun, but")
    assert "WAGGLE_HYPERVISOR=qemu" in caught.value.hint


def test_a_demanded_one_with_kvm_forbidden_is_a_contradiction() -> None:
    with pytest.raises(SettingsInvalid, match="WAGGLE_ACCEL=tcg forbids it"):
        choose_hypervisors((KRUN,), FORBIDDEN, BOTH)


FULL = Capabilities(freezes=True, stops_when_full=True, containers=True)
WITH_FULL = {
    KRUN: BOTH[KRUN],
    HypervisorName.FIRECRACKER: Candidate(FREEZES, needs_kvm=True),
    QEMU: replace(BOTH[QEMU], capabilities=FULL),
}


@pytest.mark.parametrize("prefer", get_args(Preference))
def test_who_asks_for_the_full_kernel_gets_a_hypervisor_that_has_it(prefer: Preference) -> None:
    """The others stay, for the environments that they run."""
    decision = choose_hypervisors((), KVM, WITH_FULL, prefer, full_kernel=True)
    assert decision.names[0] is QEMU
    assert {*decision.names} == {*WITH_FULL}
    assert "WAGGLE_GUEST_KERNEL=full: first those whose guests have it." in decision.reason
    alone = choose_hypervisors((), NO_KVM, WITH_FULL, prefer, full_kernel=True)
    assert (alone.names, "WAGGLE_GUEST_KERNEL" in alone.reason) == ((QEMU,), False)


def test_a_full_kernel_that_nobody_has_is_refused_with_the_reason_and_the_fix() -> None:
    gone = {**WITH_FULL, QEMU: replace(WITH_FULL[QEMU], problem=NONE)}
    with pytest.raises(SetupIncomplete) as caught:
        choose_hypervisors((), KVM, gone, full_kernel=True)
    assert caught.value.message == (
        "WAGGLE_GUEST_KERNEL=full, but no hypervisor that has it can be used. "
        f"qemu cannot be used: {NONE}"
    )
    assert caught.value.hint == "Run 'waggle setup'."


def test_a_list_without_the_full_kernel_contradicts_it() -> None:
    small = (KRUN, HypervisorName.FIRECRACKER)
    with pytest.raises(SettingsInvalid, match="guests of krun and firecracker have the small"):
        choose_hypervisors(small, KVM, WITH_FULL, full_kernel=True)
    mixed = choose_hypervisors((KRUN, QEMU), KVM, WITH_FULL, full_kernel=True)
    assert mixed.names == (KRUN, QEMU)
    assert "it runs new environments: put qemu first" in mixed.reason
    right = choose_hypervisors((QEMU, KRUN), KVM, WITH_FULL, full_kernel=True)
    assert "WAGGLE_GUEST_KERNEL" not in right.reason


def test_a_preference_that_a_list_overrules_is_said_to_change_nothing() -> None:
    """It was ignored without a word."""
    named = choose_hypervisors((KRUN, QEMU), KVM, BOTH, "speed")
    assert named.names == (KRUN, QEMU)
    assert "WAGGLE_PREFER=speed changes nothing: krun is named first" in named.reason
    assert "Put qemu first, or name none (auto)." in named.reason
    alone = choose_hypervisors((KRUN,), KVM, BOTH, "speed")
    assert "Add one whose machines can be, or name none" in alone.reason
    assert "WAGGLE_PREFER" not in choose_hypervisors((QEMU, KRUN), KVM, BOTH, "speed").reason
    assert "WAGGLE_PREFER" not in choose_hypervisors((KRUN, QEMU), KVM, BOTH).reason


def candidate(needs_kvm: bool, freezes: bool, there: bool) -> Candidate:
    problem = "" if there else "something is missing."
    return Candidate(FREEZES if freezes else PLAIN, needs_kvm, problem, "Install it.")


ORDERS = [
    names for size in range(len(HypervisorName) + 1) for names in permutations(HypervisorName, size)
]


@given(
    wanted=st.sampled_from(ORDERS),
    accel=st.sampled_from(get_args(AccelSetting)),
    facts=st.builds(KvmFacts, st.sampled_from(["", "denied"]), st.booleans(), st.booleans()),
    candidates=st.fixed_dictionaries(
        {
            name: st.builds(candidate, st.booleans(), st.booleans(), st.booleans())
            for name in HypervisorName
        }
    ),
    prefer=st.sampled_from(get_args(Preference)),
)
def test_only_those_run_machines_that_can_and_a_refusal_says_what_to_do(
    wanted: tuple[HypervisorName, ...],
    accel: AccelSetting,
    facts: KvmFacts,
    candidates: Mapping[HypervisorName, Candidate],
    prefer: Preference,
) -> None:
    try:
        acceleration = choose_acceleration(accel, facts)
    except SetupIncomplete:
        return
    able = {
        name
        for name, one in candidates.items()
        if not one.problem and (acceleration.accel == "kvm" or not one.needs_kvm)
    }
    if not able if not wanted else not able.issuperset(wanted):
        with pytest.raises((SetupIncomplete, SettingsInvalid)) as refusal:
            choose_hypervisors(wanted, acceleration, candidates, prefer)
        assert refusal.value.message
        assert refusal.value.hint
        return
    decision = choose_hypervisors(wanted, acceleration, candidates, prefer)
    assert decision.reason.endswith(".")
    if wanted:
        assert decision.names == wanted
        return
    assert {*decision.names} == able
    assert decision.unused.keys() == candidates.keys() - able
    assert all(why in decision.reason for why in decision.unused.values())
    freezing = [candidates[name].capabilities.freezes for name in decision.names]
    if prefer == "speed":
        assert freezing == sorted(freezing, reverse=True)
    else:
        assert [*decision.names] == [name for name in HypervisorName if name in able]


def test_one_that_is_used_only_by_name_is_not_of_auto() -> None:
    there = Candidate(FREEZES, needs_kvm=True, only_by_name=True)
    candidates = {HypervisorName.CLOUD_HYPERVISOR: there, **BOTH}
    assert choose_hypervisors((), KVM, candidates) == choose_hypervisors((), KVM, BOTH)
    named = (HypervisorName.CLOUD_HYPERVISOR,)
    assert choose_hypervisors(named, KVM, candidates).names == named
