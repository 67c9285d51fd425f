# SPDX-License-Identifier: Apache-2.0
"""KVM or emulation: the decision and the facts behind it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.host.hypervisors import (
    AccelSetting,
    KvmFacts,
    choose_acceleration,
    has_virtualisation_flag,
    read_kvm_facts,
)

USABLE = KvmFacts("", cpu_virtualises=True)
FAKE = KvmFacts("", cpu_virtualises=False)
PRIVATE = KvmFacts("", cpu_virtualises=True, only_root=True)
ABSENT = KvmFacts("No such file or directory", cpu_virtualises=True)


@pytest.mark.parametrize(
    "setting,facts,accel,word",
    [
        ("auto", USABLE, "kvm", "virtualises"),
        ("auto", FAKE, "tcg", "neither vmx nor svm"),
        ("auto", ABSENT, "tcg", "No such file"),
        ("auto", PRIVATE, "tcg", "chgrp kvm"),
        ("tcg", USABLE, "tcg", "demands"),
        ("kvm", USABLE, "kvm", "demands"),
        ("kvm", FAKE, "kvm", "although"),
    ],
)
def test_the_choice_comes_with_its_reason(
    setting: AccelSetting, facts: KvmFacts, accel: str, word: str
) -> None:
    choice = choose_acceleration(setting, facts)
    assert choice.accel == accel
    assert word in choice.reason


def test_required_kvm_that_is_absent_stops_the_start() -> None:
    with pytest.raises(SetupIncomplete, match="No such file"):
        choose_acceleration("kvm", ABSENT)


def test_required_kvm_that_only_root_may_use_explains_how_to_share_it() -> None:
    """Machines run as other users, so they could not open it."""
    with pytest.raises(SetupIncomplete, match="only root may use /dev/kvm") as caught:
        choose_acceleration("kvm", PRIVATE)
    assert "chgrp kvm /dev/kvm" in caught.value.hint


@pytest.mark.parametrize("facts", [USABLE, FAKE, PRIVATE, ABSENT])
def test_required_emulation_needs_nothing_of_kvm(facts: KvmFacts) -> None:
    assert choose_acceleration("tcg", facts).accel == "tcg"


def test_a_device_open_to_its_owner_alone_counts_only_for_root(tmp_path: Path) -> None:
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    device.touch()
    cpuinfo.write_text("flags : svm\n")
    device.chmod(0o600)
    assert read_kvm_facts(device, cpuinfo) == KvmFacts("", True, only_root=os.geteuid() == 0)
    device.chmod(0o666)
    assert read_kvm_facts(device, cpuinfo) == USABLE


@pytest.mark.parametrize(
    "cpuinfo,expected",
    [
        ("processor\t: 0\nflags\t\t: fpu vmx sse\n", True),
        ("flags\t\t: fpu svm\n", True),
        ("flags\t\t: fpu sse\nvmx flags\t: vnmi\n", False),
        ("model name\t: vmx svm\nflags\t\t: fpu\n", False),
        ("flags\t\t: svm_lock nosvm\n", False),
        ("", False),
    ],
)
def test_flags_are_whole_words_of_the_flags_line(cpuinfo: str, expected: bool) -> None:
    assert has_virtualisation_flag(cpuinfo) is expected


def test_facts_are_read_and_missing_files_tolerated(tmp_path: Path) -> None:
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    facts = read_kvm_facts(device, cpuinfo)
    assert facts == KvmFacts("No such file or directory", cpu_virtualises=False)
    device.touch(0o660)
    device.chmod(0o660)
    cpuinfo.write_text("flags : vmx\n")
    assert read_kvm_facts(device, cpuinfo) == USABLE
