# SPDX-License-Identifier: Apache-2.0
"""The guess of a program's language, which is made only if it is certain."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.programs.program import has_types, is_compiled, surely
from waggle.domain.programs.runtime import RuntimeName

NODE, PYTHON, SHELL = RuntimeName.NODE, RuntimeName.PYTHON, RuntimeName.SHELL
STANDARD = Path(sysconfig.get_path("stdlib"))
MODULES = ("argparse", "ast", "difflib", "enum", "inspect", "os", "pdb", "shutil", "tarfile")


@pytest.mark.parametrize(
    "code",
    [
        "ps aux",
        "source venv/bin/activate && python a.py",
        ". venv/bin/activate",
        "FOO=bar A='b c' python a.py",
        "# Install what is needed\n\npip install numpy",
        "cat > a.py <<EOF\nprint(1)\nEOF\npython a.py",
        "python3 - <<'EOF'\nimport os\nEOF",
        'cat << "END" | wc -l\na\nEND\n',
        "for i in 1 2 3; do echo $i; done",
        "if [ -f a ]; then echo; fi",
        "while read line; do echo $line; done < a",
        "[ -f a.txt ] && cat a.txt",
        "set -euo pipefail\ncd /tmp",
        "./run.sh --all",
        "nohup python server.py > log 2>&1 &",
        "docker build -t x .",
        "tail -f log",
        "date",
    ],
)
def test_shell_commands_are_recognized(code: str) -> None:
    assert surely(code) is SHELL


@pytest.mark.parametrize(
    "code",
    [
        "const x = 1;\nconsole.log(x)",
        "let x = 5",
        "// sums\nlet total = 0;",
        "import fs from 'fs';",
        'import { a, b } from "x"',
        "import React, { useState } from 'react'",
        "import 'dotenv/config'",
        "export default function () {}",
        "interface A extends B {",
        "function add(a, b) { return a + b }",
        "async function main() {",
        "console.log(1)",
        "require('http').createServer()",
        "'use strict';",
    ],
)
def test_javascript_is_recognized(code: str) -> None:
    assert surely(code) is NODE


@pytest.mark.parametrize(
    "code",
    [
        "import os\nprint(os.getcwd())",
        "import numpy as np, os",
        "from a.b import (\n    c,\n)",
        "from . import x",
        "# comment\n\nimport sys",
        "def f(a):\n    return a",
        "async def main():",
        "class A(B):\n    pass",
        "for i in range(3):\n    print(i)",
        '"""What it does."""\nx = 1',
        "print(1)",
        "with open('a') as f:\n    pass",
    ],
)
def test_python_is_recognized(code: str) -> None:
    assert surely(code) is PYTHON


@pytest.mark.parametrize(
    "code",
    [
        "",
        "#",
        "x = 1",
        "cat = 5",
        "cat in pets",
        "time is None or file",
        "sort(a)",
        "id",
        "cat << EOF\nno end",
        "let x=1",
        "print(1)\nfunction print(x) {}",
        "x" * 5_000,
        "ls " + "x" * 5_000,
    ],
)
def test_ambiguous_code_has_no_language(code: str) -> None:
    assert surely(code) is None


@pytest.mark.parametrize(
    "code, typed",
    [
        ("interface A { x: number }\nconst a = 1", True),
        ("// x\nexport type Id = string | number", True),
        ("const a: number = 1", True),
        ("export function f(a: string, b?: number) {}", True),
        ("const a = {b: 1}\nlet c = a.b ? 1 : 2", False),
        ("function f(a, b = {c: 1}) {}", True),
        ("type = 5", False),
        ("switch (a) { case b: c = 1 }", False),
    ],
)
def test_typescript_types_are_recognized(code: str, typed: bool) -> None:
    assert has_types(code) is typed


@pytest.mark.parametrize("module", MODULES)
def test_no_python_statement_is_taken_for_another_language(module: str) -> None:
    """Every statement except bare expressions is tried as a separate program."""
    code = (STANDARD / f"{module}.py").read_text()
    lines = code.splitlines()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.Expr):
            statement = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            assert surely(statement) in (None, PYTHON), statement


@given(st.text(max_size=300))
def test_any_text_is_accepted(code: str) -> None:
    assert surely(code) in (None, NODE, PYTHON, SHELL)


@pytest.mark.parametrize(
    "code, compiled",
    [
        ("enum A { x }", True),
        ("const a = 1\nexport const enum A{\n  x = 'y',\n}", True),
        ("export namespace A.B {\n}", True),
        ("class A {\n  constructor(private readonly b: string) {}\n}", True),
        ("class A {\n  constructor(\n    b: number,\n    public c = 1,\n  ) {}\n}", True),
        ("import fs = require('fs')", True),
        ("import { a } from 'b'\nconst c: number = 1", False),
        ("declare namespace A { const b: number }", False),
        ("class A { private b = 1; constructor(c: string) { this.b = 2 } }", False),
        ("const readonly = 'enum A {'", False),
    ],
)
def test_typescript_that_must_be_compiled_is_recognized(code: str, compiled: bool) -> None:
    assert is_compiled(code) is compiled
    assert has_types(code) or not compiled


def test_a_long_program_is_read_quickly() -> None:
    assert not is_compiled("constructor(" * 80_000)
