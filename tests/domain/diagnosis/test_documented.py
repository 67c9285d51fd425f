# SPDX-License-Identifier: Apache-2.0
"""Every code of a diagnosis is in the table that tells people what helps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import waggle
from waggle.domain.diagnosis import rules
from waggle.domain.errors import GuestMisbehaves
from waggle.domain.programs.guest_job import EndedByRestart

SOURCES = Path(waggle.__file__).parent
TABLE = re.compile(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", re.MULTILINE)


def codes() -> Iterator[str]:
    """Return the codes that sources name, and those that are in tables or of errors."""
    for source in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(source.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Diagnosis":
                code = call.args[0]
                if isinstance(code, ast.Constant):
                    yield str(code.value)
    yield from (found.code for _, found in rules._SAID)
    yield from (GuestMisbehaves.code, EndedByRestart.code)


def test_the_table_of_causes_has_every_code_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text()
    section = page.partition("## Why a program failed")[2].partition("\n## ")[0]
    listed = [code for row in TABLE.findall(section) for code in re.findall(r"\w+", row)]
    assert sorted(listed) == sorted({*codes()})
