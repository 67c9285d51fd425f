# SPDX-License-Identifier: Apache-2.0
"""Missing modules: the stderr that suggests one, and the question to the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.programs import NODE as NODE_ITSELF

from waggle.domain.diagnosis import MISSING, Module, question, suspected
from waggle.domain.programs.runtime import RuntimeName

PYTHON, NODE = RuntimeName.PYTHON, RuntimeName.NODE
TRACE = 'Traceback (most recent call last):\n  File "x", line 1\n'
COMMON_JS = """node:internal/modules/cjs/loader:1
Error: Cannot find module 'left-pad'
Require stack:
- /home/sandbox/a.js {
  code: 'MODULE_NOT_FOUND',
}

Node.js v20.19.2
"""
ESM = (
    "Error [ERR_MODULE_NOT_FOUND]: Cannot find package '@a/b' imported from /x.mjs\n"
    "\nNode.js v20.19.2\n"
)


@pytest.mark.parametrize(
    "stderr, expected",
    [
        (TRACE + "ModuleNotFoundError: No module named 'a.b_c'\n", Module(PYTHON, "a.b_c")),
        ("/usr/bin/python3: No module named pytest\n", Module(PYTHON, "pytest")),
        (COMMON_JS, Module(NODE, "left-pad")),
        (COMMON_JS.partition("\n\n")[0] + "\n", Module(NODE, "left-pad")),  # in a context
        (ESM, Module(NODE, "@a/b")),
    ],
)
def test_the_end_of_stderr_suggests_a_missing_module(stderr: str, expected: Module) -> None:
    assert suspected(stderr, 1) == expected
    assert suspected(stderr, 2) is None
    assert suspected(stderr, None) is None
    assert suspected(stderr + "and on it went\n", 1) is None


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        "\n\n",
        "ModuleNotFoundError: No module named 'a b'",
        "ModuleNotFoundError: No module named 'a'; 'a' is not a package",
        "ModuleNotFoundError: No module named '--version'",
        "ModuleNotFoundError: No module named '" + "a" * 200 + "'",
        COMMON_JS.replace("left-pad", "./mine"),
        COMMON_JS.replace("left-pad", "/home/sandbox/mine.js"),
        COMMON_JS.replace("left-pad", "--eval"),
    ],
)
def test_other_errors_suggest_no_missing_module(stderr: str) -> None:
    assert suspected(stderr, 1) is None


@given(st.text())
def test_any_text_is_accepted_as_stderr(stderr: str) -> None:
    suspected(stderr, 1)


def test_the_failed_commands_own_interpreter_is_asked() -> None:
    module = Module(PYTHON, "x")
    assert question(module, ["/venv/bin/python3.12", "a.py"])[0] == "/venv/bin/python3.12"
    assert question(module, ["sh", "-c", "python a.py"])[0] == "python3"
    assert question(Module(NODE, "x"), ["/opt/node"])[0] == "/opt/node"
    assert question(Module(NODE, "x"), ["npm", "test"])[0] == "node"


@pytest.mark.parametrize(
    "name, is_missing",
    [("json", False), ("sys", False), ("json.tool", False), ("os.path", True), ("nope.x", True)],
)
def test_python_answers_without_importing(tmp_path: Path, name: str, is_missing: bool) -> None:
    """The question about a submodule does not run the package, which would print."""
    package = tmp_path / "loud"
    package.mkdir()
    (package / "__init__.py").write_text("print('ran')")
    (package / "part.py").touch()
    for module, expected in ((name, is_missing), ("loud.part", False), ("loud.other", True)):
        done = subprocess.run(
            question(Module(PYTHON, module), [sys.executable]),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == (MISSING if expected else "")


@pytest.mark.parametrize("line", ["require('NAME')", "import 'NAME'"])
def test_node_answers_without_running_the_module(tmp_path: Path, line: str) -> None:
    """The stderr of a real Node leads to a question, and Node answers it."""
    package = tmp_path / "node_modules" / "there"
    package.mkdir(parents=True)
    (package / "index.js").write_text("console.log('ran')")
    program = tmp_path / ("a.mjs" if "import" in line else "a.js")
    program.write_text(line.replace("NAME", "@not/there"))
    failed = subprocess.run(
        [str(NODE_ITSELF), program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    missing = Module(NODE, "@not/there")
    assert suspected(failed.stderr, failed.returncode) == missing
    for module, expected in ((missing, MISSING), (Module(NODE, "there"), "")):
        command = question(module, [str(NODE_ITSELF)])
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
