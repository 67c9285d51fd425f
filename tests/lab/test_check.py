# SPDX-License-Identifier: Apache-2.0
"""The verdicts on machines that can and cannot run the lab."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab.check import PROGRAMS, Facts, judge, look

from waggle.infra.host.hypervisors import KvmFacts

ABLE = Facts("x86_64", is_root=True, missing=(), kvm=KvmFacts("gone", False))


def test_a_machine_with_all_programs_can_run_the_lab() -> None:
    verdict = judge(ABLE)
    assert verdict.can_run
    assert not verdict.needless


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_missing_program_is_named_with_its_install_command(name: str) -> None:
    verdict = judge(replace(ABLE, missing=(name,)))
    assert verdict.mends == (f"{name} is missing: {PROGRAMS[name]}",)
    assert not verdict.obstacles
    assert not verdict.can_run


@pytest.mark.parametrize(
    "facts, word",
    [(replace(ABLE, machine="aarch64"), "aarch64"), (replace(ABLE, is_root=False), "root")],
)
def test_an_obstacle_that_no_package_removes_is_reported_separately(
    facts: Facts, word: str
) -> None:
    verdict = judge(facts)
    (obstacle,) = verdict.obstacles
    assert word in obstacle
    assert not verdict.mends
    assert not verdict.can_run


def test_the_lab_is_needless_with_hardware_virtualisation() -> None:
    verdict = judge(replace(ABLE, kvm=KvmFacts("", True)))
    assert verdict.can_run
    assert "tests/contract -k krun" in verdict.needless


def test_look_finds_missing_programs() -> None:
    assert look(lambda name: None if name == "git" else "/bin/true").missing == ("git",)
