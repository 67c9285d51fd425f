# SPDX-License-Identifier: Apache-2.0
"""Diagnoses of models' mistakes, from what interpreters really print."""

from __future__ import annotations

import pytest
from tests.domain.evidence import diagnosis_of, failed

from waggle.domain.diagnosis.rules import diagnose
from waggle.domain.programs.runtime import RuntimeName

TRACE = 'Traceback (most recent call last):\n  File "/run/code/1/main.py", line 1, in <module>\n'


@pytest.mark.parametrize(
    "said, code, words",
    [
        ("/run/code/1/main.sh: line 1: import: command not found\n/run/code/1/main.sh: line 2: "
         "syntax error near unexpected token `os.getcwd'\n", "another_language", '"python"'),
        ("/run/code/1/main.sh: line 1: syntax error near unexpected token `1'\n"
         "/run/code/1/main.sh: line 1: `print(1)'\n", "another_language", '"python"'),
        (f"{TRACE}NameError: name 'df' is not defined", "not_defined", "same context"),
        (f"{TRACE}NameError: name 'null' is not defined", "not_defined", "None"),
        ("ReferenceError: x is not defined\n    at a (b:1:1)\n\nNode.js v24.1.0", "not_defined",
         "same context"),
        ("ReferenceError: document is not defined\n", "not_defined", "jsdom"),
        ("ReferenceError: prompt is not defined\n", "not_defined", "stdin"),
        ("SyntaxError: invalid character '\u201c' (U+201C)", "typographic_character", "plain"),
        ("SyntaxError: invalid non-printable character U+00A0", "typographic_character", "plain"),
        ("SyntaxError: unexpected character after line continuation character",
         "escaped_line_ends", "real line ends"),
        ("SyntaxError: (unicode error) 'unicodeescape' codec can't decode bytes in position 2-3",
         "escape_in_path", "Linux"),
        ("SyntaxError: 'await' outside function", "await_outside_function", "asyncio.run"),
        ("SyntaxError [ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX]: TypeScript enum is not supported",
         "typescript_unsupported", "tsx"),
        ("node: bad option: --experimental-transform-types", "typescript_unsupported", "tsx"),
        ("ReferenceError: require is not defined in ES module scope, you can use import instead",
         "module_kinds_mixed", "import"),
        ("/run/code/1/main.sh: line 1: venv/bin/activate: No such file or directory",
         "no_virtual_environment", "install_packages"),
        ("/run/code/1/main.sh: line 1: unexpected EOF while looking for matching `\"'",
         "unclosed_quote", "write_file"),
        (f"{TRACE}FileNotFoundError: [Errno 2] No such file or directory: 'C:\\\\Users\\\\a.csv'",
         "file_not_found", "write_file"),
        (f"{TRACE}FileNotFoundError: [Errno 2] No such file or directory: '/mnt/data/a.csv'",
         "file_not_found", "write_file"),
        ("Error: ENOENT: no such file or directory, open '/Users/me/a.json'", "file_not_found",
         "write_file"),
        ("cat: /home/me/a.txt: No such file or directory", "file_not_found", "write_file"),
        ("/run/code/1/main.sh: line 1: cd: /Users/me/p: No such file or directory",
         "file_not_found", "write_file"),
        (f"{TRACE}FileNotFoundError: [Errno 2] No such file or directory: 'data/a.csv'",
         "file_not_found", "cwd"),
        ("Error: ENOENT: no such file or directory, open 'a.json'", "file_not_found", "cwd"),
        ("python3: can't open file '/home/sandbox/app.py': [Errno 2] No such file or directory",
         "file_not_found", "cwd"),
        ("/run/code/1/main.sh: line 1: cd: project: No such file or directory", "file_not_found",
         "cwd"),
    ],
)  # fmt: skip
def test_a_mistake_is_diagnosed_with_the_next_step(said: str, code: str, words: str) -> None:
    found = diagnosis_of(failed(said))
    assert found.code == code
    assert words in found.next_step


@pytest.mark.parametrize(
    "said",
    [
        f"{TRACE}NameError: name 'os' is not defined. Did you forget to import 'os'?",
        f"{TRACE}FileNotFoundError: [Errno 2] No such file or directory: '/etc/nothing'",
        "cat: /home/sandbox/a.txt: No such file or directory",
        f"{TRACE}ZeroDivisionError: division by zero",
        "SyntaxError: invalid syntax",
        "/run/code/1/main.sh: line 1: syntax error near unexpected token `fi'",
    ],
)
def test_an_error_that_explains_itself_has_no_diagnosis(said: str) -> None:
    assert diagnose(failed(said)) is None


@pytest.mark.parametrize(
    "name, words",
    [
        ("systemctl", "Start the server itself as a job in the background: there is no systemd."),
        ("conda", 'Install it: install_packages with packages "NAME"; or run python3 -m pip '),
    ],
)
def test_the_substitute_for_a_command_is_a_whole_sentence(name: str, words: str) -> None:
    said = failed(f"bash: line 1: {name}: command not found", exit_code=127, command=name)
    assert diagnosis_of(said).next_step.startswith(words)


def test_a_successful_run_has_no_mistake() -> None:
    said = failed("NameError: name 'x' is not defined", exit_code=0, runtime=RuntimeName.SHELL)
    assert diagnose(said) is None
