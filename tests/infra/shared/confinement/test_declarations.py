# SPDX-License-Identifier: Apache-2.0
"""What is declared of the C library, as confined processes import it."""

from __future__ import annotations

from pathlib import Path

from waggle.infra.shared.confinement import declarations
from waggle.infra.shared.confinement.declarations import LIBC, generate


def test_what_is_imported_was_made_from_these_declarations() -> None:
    imported = Path(declarations.__file__).with_name("_abi.py").read_text("utf-8")
    made = generate(LIBC, declarations.__name__)
    assert imported == made, "run: python -m waggle.infra.shared.confinement.declarations"


def test_nothing_of_libkrun_is_declared_as_the_c_librarys() -> None:
    assert "krun" not in LIBC
