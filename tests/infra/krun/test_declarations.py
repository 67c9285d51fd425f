# SPDX-License-Identifier: Apache-2.0
"""What is declared of libkrun: once, with a version each, and as the runner imports it."""

from __future__ import annotations

import re
from pathlib import Path

from waggle.infra.krun import declarations
from waggle.infra.krun.declarations import GONE_IN_2, LIBKRUN, OPTIONAL, SINCE
from waggle.infra.shared.confinement.declarations import generate


def test_what_the_runner_imports_was_made_from_these_declarations() -> None:
    imported = Path(declarations.__file__).with_name("_abi.py").read_text("utf-8")
    made = generate(LIBKRUN, declarations.__name__)
    assert imported == made, "run: python -m waggle.infra.krun.declarations"


def test_every_function_has_a_version_and_every_version_a_function() -> None:
    declared = re.findall(r"\b(\w+)\(", LIBKRUN)
    assert len(declared) == len(set(declared))
    assert set(declared) == set(SINCE)
    assert all(name.startswith("krun_") for name in declared)


def test_every_version_is_one_of_1_x() -> None:
    assert all(re.fullmatch(r"1\.\d+", version) for version in SINCE.values())


def test_what_is_said_of_versions_is_said_of_declared_functions() -> None:
    assert (OPTIONAL | GONE_IN_2).issubset(SINCE)
    assert not OPTIONAL & GONE_IN_2


def test_every_argument_is_named() -> None:
    """A declaration without names would hide a swapped pair from its reader."""
    for arguments in re.findall(r"\(([^)]*)\)", LIBKRUN.replace("\n", " ")):
        for argument in arguments.split(","):
            assert argument == "void" or re.fullmatch(r"\s*[\w ]+[ *]\w+\s*", argument), argument
