# SPDX-License-Identifier: Apache-2.0
"""The probe of libkrun: usable, or a problem with a mend, never an exception."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.krun.elf import AARCH64, krun_functions, krun_library, shared_object

from waggle.infra.krun.library import Libkrun
from waggle.infra.krun.probe import (
    GONE_IN_2,
    OPTIONAL,
    SINCE,
    KrunFacts,
    _judged,
    _path_of,
    missing,
    read_krun_facts,
)

REQUIRED = frozenset(SINCE) - OPTIONAL
CONSOLE = frozenset({"krun_add_virtio_console_multiport", "krun_add_console_port_inout"})


def problem(facts: KrunFacts) -> str:
    """Return why it cannot be used; there is always a mend."""
    assert facts.problem.endswith(".")
    assert facts.mend.endswith(".")
    return facts.problem


class TestAFile:
    def test_that_has_everything_is_usable(self, tmp_path: Path) -> None:
        path = krun_library(tmp_path / "libkrun.so")
        assert read_krun_facts(path) == KrunFacts(str(path))

    def test_of_the_oldest_version_is_usable_too(self, tmp_path: Path) -> None:
        path = krun_library(tmp_path / "libkrun.so", *OPTIONAL)
        assert read_krun_facts(path) == KrunFacts(str(path))

    def test_that_is_absent(self, tmp_path: Path) -> None:
        path = tmp_path / "libkrun.so"
        facts = read_krun_facts(path)
        assert facts.library == str(path)
        assert "No such file" in problem(facts)
        assert "WAGGLE_LIBKRUN_PATH" in facts.mend

    @pytest.mark.parametrize(
        "content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(60), b"\x7fELF" * 1000]
    )
    def test_that_is_no_library(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "libkrun.so"
        path.write_bytes(content)
        assert "cannot be loaded" in problem(read_krun_facts(path))

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        path = tmp_path / "libkrun.so"
        path.write_bytes(shared_object(krun_functions(), AARCH64))
        assert "is for another architecture" in problem(read_krun_facts(path))

    def test_of_another_word_size(self, tmp_path: Path) -> None:
        path = tmp_path / "libkrun.so"
        content = bytearray(shared_object(krun_functions()))
        content[4] = 1
        path.write_bytes(content)
        assert "is for another architecture" in problem(read_krun_facts(path))

    def test_that_was_cut(self, tmp_path: Path) -> None:
        path = krun_library(tmp_path / "libkrun.so")
        path.write_bytes(path.read_bytes()[:200])
        assert "cannot be loaded" in problem(read_krun_facts(path))

    def test_that_is_a_library_but_not_libkrun(self) -> None:
        facts = read_krun_facts(Path("libc.so.6"))
        assert "no libkrun 1.x" in problem(facts)

    def test_that_is_a_directory(self, tmp_path: Path) -> None:
        assert "cannot be loaded" in problem(read_krun_facts(tmp_path))

    def test_whose_name_is_not_text(self, tmp_path: Path) -> None:
        assert "cannot be loaded" in problem(read_krun_facts(tmp_path / "\udcff"))

    def test_that_was_built_without_block_devices(self, tmp_path: Path) -> None:
        path = krun_library(tmp_path / "libkrun.so", "krun_add_disk2", "krun_add_disk3")
        assert "without block devices" in problem(read_krun_facts(path))

    def test_of_2_x(self, tmp_path: Path) -> None:
        path = krun_library(tmp_path / "libkrun.so", *GONE_IN_2)
        assert "2.x" in problem(read_krun_facts(path))


def test_the_loaders_choice_is_usable_or_has_a_problem() -> None:
    facts = read_krun_facts()
    if facts.problem:
        assert problem(facts)
    else:
        assert not missing(Libkrun(facts.library)) - OPTIONAL


def test_exactly_the_absent_functions_are_missing(tmp_path: Path) -> None:
    path = krun_library(tmp_path / "libkrun.so", "krun_add_vsock", "krun_start_enter")
    assert missing(Libkrun(str(path))) == {"krun_add_vsock", "krun_start_enter"}


def test_a_library_that_the_loader_found_is_named_by_its_file() -> None:
    """A runner has no LD_LIBRARY_PATH. The C library stands for any loaded library."""
    name = ctypes.util.find_library("c")
    assert name is not None
    found = Path(_path_of(name))
    assert found.is_absolute()
    assert found.is_file()
    assert _path_of("libnothing.so.1") == "libnothing.so.1"


class TestJudging:
    """The pure step from missing functions to the reported problem."""

    def test_nothing_missing(self) -> None:
        assert _judged("libkrun.so.1", frozenset()) == KrunFacts("libkrun.so.1")
        assert _judged("libkrun.so.1", OPTIONAL) == KrunFacts("libkrun.so.1")

    @pytest.mark.parametrize("lacks", [{"krun_add_disk2"}, {"krun_add_disk2", "krun_add_disk3"}])
    def test_no_block_devices(self, lacks: set[str]) -> None:
        facts = _judged("libkrun.so.1", frozenset(lacks))
        assert "without block devices" in problem(facts)
        assert "BLK=1" in facts.mend

    @pytest.mark.parametrize("version", ["1.17", "1.13", "1.10"])
    def test_too_old_names_what_is_missing(self, version: str) -> None:
        def number(text: str) -> int:
            return int(text.removeprefix("1."))

        lacks = frozenset(name for name, since in SINCE.items() if number(since) >= number(version))
        message = problem(_judged("libkrun.so.1", lacks))
        assert message.startswith("libkrun is too old")
        assert "krun_add_vsock_port2" in message

    @pytest.mark.parametrize(
        "lacks",
        [GONE_IN_2, GONE_IN_2 | {"krun_add_disk2"}, GONE_IN_2 | CONSOLE, REQUIRED],
        ids=["2.x", "2.x without block devices", "2.x without consoles", "no libkrun at all"],
    )
    def test_not_1_x(self, lacks: frozenset[str]) -> None:
        facts = _judged("libkrun.so.1", lacks)
        assert "2.x or something else" in problem(facts)
        assert "below 2" in facts.mend

    @given(lacks=st.frozensets(st.sampled_from(sorted(SINCE))))
    def test_a_problem_if_and_only_if_something_required_is_missing(
        self, lacks: frozenset[str]
    ) -> None:
        facts = _judged("libkrun.so.1", lacks)
        assert bool(facts.problem) == bool(lacks - OPTIONAL)
        assert bool(facts.problem) == bool(facts.mend)
