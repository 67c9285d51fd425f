# SPDX-License-Identifier: Apache-2.0
"""The declarations: libkrun's have a version each, and all are equal to what processes import."""

from __future__ import annotations

import re

from tests.support.abi import GENERATED, generate

from waggle.infra.krun.library import LIBKRUN
from waggle.infra.krun.probe import GONE_IN_2, OPTIONAL, SINCE
from waggle.infra.shared.namespaces import LIBC


def test_the_generated_imports_match_the_declarations() -> None:
    for path, declared in GENERATED.items():
        assert path.read_text("utf-8") == generate(declared), "run: python -m tests.support.abi"


def test_no_libkrun_function_is_declared_for_every_vmm() -> None:
    assert "krun" not in LIBC


def test_every_declared_function_has_exactly_one_version() -> None:
    declared = re.findall(r"\b(\w+)\(", LIBKRUN)
    assert len(declared) == len(set(declared))
    assert set(declared) == set(SINCE)
    assert all(name.startswith("krun_") for name in declared)


def test_every_version_is_1_x() -> None:
    assert all(re.fullmatch(r"1\.\d+", version) for version in SINCE.values())


def test_optional_and_removed_functions_are_declared() -> None:
    assert (OPTIONAL | GONE_IN_2).issubset(SINCE)
    assert not OPTIONAL & GONE_IN_2


def test_every_argument_is_named() -> None:
    """A declaration without names would hide a swapped pair from the reader."""
    for arguments in re.findall(r"\(([^)]*)\)", LIBKRUN.replace("\n", " ")):
        for argument in arguments.split(","):
            assert argument == "void" or re.fullmatch(r"\s*[\w ]+[ *]\w+\s*", argument), argument
