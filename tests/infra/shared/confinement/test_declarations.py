# SPDX-License-Identifier: Apache-2.0
"""The declarations of the C library, as confined processes import them."""

from __future__ import annotations

from pathlib import Path

from waggle.infra.shared.confinement import declarations
from waggle.infra.shared.confinement.declarations import LIBC, generate


def test_the_import_matches_these_declarations() -> None:
    imported = Path(declarations.__file__).with_name("_abi.py").read_text("utf-8")
    made = generate(LIBC, declarations.__name__)
    assert imported == made, "run: python -m waggle.infra.shared.confinement.declarations"


def test_no_libkrun_function_is_declared_here() -> None:
    assert "krun" not in LIBC
