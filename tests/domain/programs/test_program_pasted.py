# SPDX-License-Identifier: Apache-2.0
"""The removal of fences, prompts and output around a pasted program."""

from __future__ import annotations

import pytest

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.program import commands, is_session, python_lines, unfenced


@pytest.mark.parametrize(
    "code, expected",
    [
        ("```python print(1)```", ("print(1)", "python")),
        ("```print(1)```\n", ("print(1)", "")),
        ("print(1)\n```", ("print(1)\n", "")),
        ("print(1)\n```\n\n", ("print(1)\n", "")),
        ("\ufeffecho hi", ("echo hi", "")),
        ("\ufeff```sh\nls\n```", ("ls\n", "sh")),
    ],
)
def test_a_fence_or_a_byte_order_mark_is_removed(code: str, expected: tuple[str, str]) -> None:
    assert unfenced(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        "cat > a.md <<EOF\n```sh\nls\n```\nEOF",
        "echo '# Title\n```js\n1\n```\n' > a.md",
        'x = """\n```\n"""',
        "const a = `\n```\nb`",
        "x = '\\\n```\\\n'",
    ],
)
def test_a_fence_inside_a_string_or_here_document_is_kept(code: str) -> None:
    assert unfenced(code) == (code, "")


@pytest.mark.parametrize(
    "code", ["Here's the code:\n```python\nprint(1)\n```", "python\n```\nprint(1)\n```"]
)
def test_text_before_a_block_is_refused(code: str) -> None:
    with pytest.raises(InvalidArgument, match="before a fenced block") as refused:
        unfenced(code)
    assert "without Markdown" in refused.value.hint


@pytest.mark.parametrize(
    "code, typed",
    [
        ("$ ls -l\ntotal 0\n$ pwd\n/home", "ls -l\npwd\n"),
        ("me@box:~/a$ ls", "ls\n"),
        ("(venv) $ python a.py", "python a.py\n"),
        ("$ echo a \\\n> b\na b", "echo a \\\nb\n"),
    ],
)
def test_a_shell_session_is_reduced_to_the_typed_commands(code: str, typed: str) -> None:
    assert is_session(code)
    assert commands(code) == typed


@pytest.mark.parametrize("code", ["$ = require('x')", "$x = 1", "a $ b", "$(ls)", "${a}", ""])
def test_code_without_prompts_is_not_a_session(code: str) -> None:
    assert not is_session(code)


@pytest.mark.parametrize(
    "code, typed",
    [
        (">>> x = 1\n>>> x\n1", "x = 1\nx\n"),
        (">>> for i in a:\n...     b\n...\n", "for i in a:\n    b\n\n"),
        ("    x = 1\n    if x:\n        y\n", "x = 1\nif x:\n    y\n"),
        ("\n\tx\n", "\nx\n"),
        ("  # a\nx", "  # a\nx"),
        ("if x:\n    >>> y", "if x:\n    >>> y"),
        ("a >>b", "a >>b"),
    ],
)
def test_python_prompts_and_indentation_are_removed(code: str, typed: str) -> None:
    assert python_lines(code) == typed
