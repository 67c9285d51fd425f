# SPDX-License-Identifier: Apache-2.0
"""The declarations of libkrun: unique, with a version each, and equal to the runner's import."""

from __future__ import annotations

import re
from pathlib import Path

from waggle.infra.krun import declarations
from waggle.infra.krun.declarations import GONE_IN_2, LIBKRUN, OPTIONAL, SINCE
from waggle.infra.shared.confinement.declarations import generate


def test_the_runners_import_matches_these_declarations() -> None:
    imported = Path(declarations.__file__).with_name("_abi.py").read_text("utf-8")
    made = generate(LIBKRUN, declarations.__name__)
    assert imported == made, "run: python -m waggle.infra.krun.declarations"


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
