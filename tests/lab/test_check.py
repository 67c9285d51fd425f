# SPDX-License-Identifier: Apache-2.0
"""What is said of machines that can and cannot run the lab."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab.check import PROGRAMS, Facts, judge, look

from waggle.infra.host.hypervisors import KvmFacts

ABLE = Facts("x86_64", is_root=True, missing=(), kvm=KvmFacts("gone", False))


def test_a_machine_with_all_parts_can() -> None:
    verdict = judge(ABLE)
    assert verdict.can_run
    assert not verdict.needless


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_missing_program_is_named_with_its_mend(name: str) -> None:
    verdict = judge(replace(ABLE, missing=(name,)))
    assert verdict.mends == (f"{name} is missing: {PROGRAMS[name]}",)
    assert not verdict.obstacles
    assert not verdict.can_run


@pytest.mark.parametrize(
    "facts, word",
    [(replace(ABLE, machine="aarch64"), "aarch64"), (replace(ABLE, is_root=False), "root")],
)
def test_what_no_package_mends_is_told_apart(facts: Facts, word: str) -> None:
    verdict = judge(facts)
    (obstacle,) = verdict.obstacles
    assert word in obstacle
    assert not verdict.mends
    assert not verdict.can_run


def test_with_hardware_virtualisation_there_is_no_need() -> None:
    verdict = judge(replace(ABLE, kvm=KvmFacts("", True)))
    assert verdict.can_run
    assert "tests/contract -k krun" in verdict.needless


def test_looking_finds_what_is_missing() -> None:
    assert look(lambda name: None if name == "git" else "/bin/true").missing == ("git",)
