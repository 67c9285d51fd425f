# SPDX-License-Identifier: Apache-2.0
"""What is said of machines that can and cannot run the lab."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lab.check import OLDEST_CARGO, PROGRAMS, Facts, judge, look
from lab.store import Store

from waggle.infra.host.accel import KvmFacts

ABLE = Facts("x86_64", is_root=True, missing=(), has_libkrun=False, kvm=KvmFacts("gone", False))


def test_a_machine_with_all_parts_can() -> None:
    verdict = judge(ABLE)
    assert verdict.can_run
    assert not verdict.needless


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_missing_program_is_named_with_its_mend(name: str) -> None:
    verdict = judge(replace(ABLE, missing=(name,)))
    assert verdict.obstacles == (f"{name} is missing: {PROGRAMS[name]}",)


def test_a_kept_libkrun_needs_no_compiler() -> None:
    assert judge(replace(ABLE, missing=("cargo", "cc"), has_libkrun=True)).can_run


def test_a_cargo_of_the_distribution_is_too_old_to_build_libkrun() -> None:
    (obstacle,) = judge(replace(ABLE, cargo=(1, 63))).obstacles
    assert "1.63 is too old" in obstacle
    assert judge(replace(ABLE, cargo=(1, 63), has_libkrun=True)).can_run
    assert judge(replace(ABLE, cargo=OLDEST_CARGO)).can_run


@pytest.mark.parametrize(
    "said, version",
    [("cargo 1.85.0 (d73d2caf9 2024-12-31)", (1, 85)), ("nonsense", None), ("", None)],
)
def test_the_version_of_cargo_is_asked_for(
    tmp_path: Path, said: str, version: tuple[int, int] | None
) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text(f"#!/bin/sh\necho '{said}'\n")
    cargo.chmod(0o755)
    assert look(Store(tmp_path), find=lambda _: str(cargo)).cargo == version


@pytest.mark.parametrize(
    "facts, word",
    [(replace(ABLE, machine="aarch64"), "aarch64"), (replace(ABLE, is_root=False), "root")],
)
def test_what_is_in_the_way_is_told(facts: Facts, word: str) -> None:
    (obstacle,) = judge(facts).obstacles
    assert word in obstacle


def test_with_hardware_virtualisation_there_is_no_need() -> None:
    verdict = judge(replace(ABLE, kvm=KvmFacts("", True)))
    assert verdict.can_run
    assert "tests/contract -k krun" in verdict.needless


def test_looking_finds_what_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    facts = look(store, find=lambda name: None if name == "git" else "/bin/true")
    assert facts.missing == ("git", "cargo")  # that one does not say its version: it cannot be run
    assert not facts.has_libkrun
    (tmp_path / "libkrun-1.19.7-x").mkdir()
    assert look(store).has_libkrun
