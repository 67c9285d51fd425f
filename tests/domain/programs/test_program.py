# SPDX-License-Identifier: Apache-2.0
"""The program and language read from code as models write it, notebooks included."""

import ast
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument, InvalidRuntime
from waggle.domain.programs.program import Language, known_language, parse_language, read_program
from waggle.domain.programs.runtime import RuntimeName

PYTHON, NODE, SHELL = RuntimeName.PYTHON, RuntimeName.NODE, RuntimeName.SHELL


def read(code: str, language: str | None = None, own: RuntimeName = PYTHON) -> tuple[str, object]:
    program = read_program(code, language, own)
    return program.code, program.language and program.language.runtime


@pytest.mark.parametrize(
    "code, expected",
    [
        ("```python\nprint(1)\n```", ("print(1)\n", PYTHON)),
        ("\n```py\nprint(1)\n```\n\n", ("print(1)\n", PYTHON)),
        ("```\nprint(1)\n```", ("print(1)\n", None)),
        ("~~~bash\nls\n~~~", ("ls\n", SHELL)),
        ("````js\n`x`\n````", ("`x`\n", NODE)),
        ("```python\nprint(1)", ("print(1)\n", PYTHON)),
        ("```python title=x\nprint(1)\n```", ("print(1)\n", PYTHON)),
        ("```text\nprint(1)\n```", ("print(1)\n", None)),
        ("print('```')", ("print('```')", None)),
        ('"""\n```\nx\n```\n"""', ('"""\n```\nx\n```\n"""', None)),
    ],
)
def test_a_fence_around_the_whole_code_is_removed(code: str, expected: tuple[str, object]) -> None:
    assert read(code) == expected


def test_a_fence_does_not_override_the_requested_language() -> None:
    assert read("```python\necho 1\n```", "shell") == ("echo 1\n", SHELL)


@pytest.mark.parametrize(
    "code", ["```python\na\n```\nand\n```python\nb\n```", "```python\na\n```\nThis prints a."]
)
def test_several_blocks_are_refused(code: str) -> None:
    with pytest.raises(InvalidArgument, match="blocks") as refused:
        read(code)
    assert refused.value.hint


@pytest.mark.parametrize(
    "code, language",
    [
        ("#!/bin/bash\necho hi", SHELL),
        ("#!/usr/bin/env python3\nprint(1)", PYTHON),
        ("#!/usr/bin/env -S node\nx", NODE),
        ("#!/usr/bin/perl\nx", None),
        ("pip install x", SHELL),
        ("python main.py", SHELL),
        ("npm test", SHELL),
        ("cd app && npm run build", SHELL),
        ("ls -la\n", SHELL),
        ("ls", SHELL),
        ("sudo apt-get update", SHELL),
        ("export A=1\necho $A", SHELL),
        ("curl -s https://host.example/", SHELL),
        ("echo hi\nfor f in *; do echo $f; done", SHELL),
        ("print('ls -la')", None),
        ("cat = 5\nprint(cat)", None),
        ("make(1)", None),
        ("find.x = 1", None),
        ("import pip\npip.main", None),
    ],
)
def test_the_language_is_recognized_from_the_code(code: str, language: RuntimeName | None) -> None:
    assert read(code) == (code, language)


def test_javascript_with_an_export_is_accepted() -> None:
    assert read("export const a = 1", own=NODE) == ("export const a = 1", None)


def test_code_that_is_certainly_another_language_runs_as_that() -> None:
    assert read("const x = 1", own=RuntimeName.DATA) == ("const x = 1", NODE)
    assert read("import os\nprint(os.name)", own=NODE) == ("import os\nprint(os.name)", PYTHON)
    assert read("print(1)", own=SHELL) == ("print(1)", PYTHON)
    assert read("import os\nprint(1)", own=PYTHON) == ("import os\nprint(1)", None)
    assert read("$ echo hi\nhi") == ("echo hi\n", SHELL)
    assert read("```console\n$ ls\na\n```") == ("ls\n", SHELL)
    assert read(">>> print(1)\n1") == ("print(1)\n", None)


@pytest.mark.parametrize("language", [None, "javascript"])
def test_javascript_with_types_is_typescript(language: str | None) -> None:
    program = read_program("const a: number = 1", language, NODE)
    assert program.language == Language(NODE, ".ts")
    assert read_program("const a = 1", language, NODE).language != Language(NODE, ".ts")
    enum = read_program("enum A { x }\nconsole.log(A.x)", language, NODE)
    assert enum.language == Language(NODE, ".ts", compiled=True)


@pytest.mark.parametrize("language", ["auto", "None", "null", "default", " "])
def test_a_placeholder_for_the_language_means_none(language: str) -> None:
    assert read("x = 1", language) == ("x = 1", None)


def test_a_requested_shell_receives_any_code() -> None:
    assert read("import os\nls", "shell") == ("import os\nls", SHELL)


@pytest.mark.parametrize("code, language, step", [
    ("const x = 1", "python", 'language "javascript"'),
    ("import os", "js", 'language "python"'),
    ("$ ls", "python", 'language "shell"'),
])  # fmt: skip
def test_code_in_another_language_is_refused(code: str, language: str, step: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(code, language)
    assert step in refused.value.hint


def test_a_command_given_as_python_is_refused_with_the_next_step() -> None:
    with pytest.raises(InvalidArgument, match="not Python") as refused:
        read("pip install x", "python")
    assert "shell" in refused.value.hint


def test_a_shell_gets_unix_line_ends_and_python_keeps_its_own() -> None:
    assert read("echo a\r\necho b\r\n", "bash") == ("echo a\necho b\n", SHELL)
    assert read("printf 'a\rb'\r", "sh") == ("printf 'a\rb'", SHELL)
    assert read("x = 1\r\n") == ("x = 1\r\n", None)
    assert read("```sh\r\necho a\r\n```\r\n") == ("echo a\n", SHELL)


@pytest.mark.parametrize(
    "text, language",
    [
        ("py", Language(PYTHON)),
        ("Python3", Language(PYTHON)),
        ("js", Language(NODE)),
        ("javascript", Language(NODE)),
        ("nodejs", Language(NODE)),
        ("TypeScript", Language(NODE, ".ts")),
        ("ts", Language(NODE, ".ts")),
        ("sh", Language(SHELL)),
        ("bash", Language(SHELL)),
        ("zsh", Language(SHELL)),
    ],
)
def test_languages_have_aliases(text: str, language: Language) -> None:
    assert parse_language(text) == language


@pytest.mark.parametrize("text", ["ruby", "c++", "", "text", "p" * 1000])
def test_an_unknown_language_is_refused(text: str) -> None:
    assert known_language(text) is None
    with pytest.raises(InvalidRuntime) as refused:
        parse_language(text)
    assert "shell" in refused.value.hint


# Notebooks


def run(code: str) -> dict[str, object]:
    """Run the translated code with real subprocesses and return its variables."""
    values: dict[str, object] = {}
    exec(compile(read(code)[0], "cell", "exec"), values)  # noqa: S102 - written here
    return values


def test_a_shell_command_in_a_cell_runs() -> None:
    values = run(
        "where = 'there'\nout = !echo it\\'s {where}; echo two\nn = 1\nif n:\n    !true\n    n = 2"
    )
    assert values["out"] == ["it's there", "two"]
    assert values["n"] == 2


def test_magics_with_a_python_counterpart_are_translated() -> None:
    values = run(
        "%matplotlib inline\n%load_ext autoreload\n%env CALLS_TEST=5\n"
        "import os\na = os.environ.pop('CALLS_TEST')\n%time b = 6\nhere = os.getcwd()\n%cd /\n"
        "c = os.getcwd()\nos.chdir(here)\n"
    )
    assert (values["a"], values["b"], values["c"]) == ("5", 6, "/")


@pytest.mark.parametrize(
    "code",
    [
        "x = (5\n%timeit)\n",
        "s = '''\n!ls\n%pip\n'''\n",
        's = """a\n!ls""" \\\n % 3\n',
        "x = 1 \\\n % 2\n",
        "x != 3\n",
        "d = {'a': 1,\n!r}\n",
        "print(f'{x!r}')\n",
        "# !ls\n",
        "a = '%s' % b\n",
        "a = ';!'; b = {1: 2}\n",
        "s = '''\n;!x\n'''; t = 3\n",
        "if a != 1: b = 5 % 2; c = a[1:2]\n",
        "# a; !b\n",
    ],
)
def test_plain_python_is_not_changed(code: str) -> None:
    assert read(code) == (code, None)


@pytest.mark.parametrize(
    "code, printed",
    [
        ("import os; !echo one; echo two\nprint(3)", "one two 3"),
        ("x = 'a;!b'; out = !echo '{x}'\nprint(out)", "['a;!b']"),
        ("for i in [1, 2]: !echo {i}", "1 2"),
        ("if True:\n    x = 1; %env A=5\n    import os; print(os.environ['A'])", "5"),
    ],
)
def test_a_magic_may_follow_python_on_the_same_line(code: str, printed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-u", "-c", read(code)[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert " ".join(ended.stdout.split()) == printed


def test_translated_lines_keep_their_numbers() -> None:
    code = "!ls\n\n%pip install x\nx = 1\n!echo 'it\nraise ValueError\n"
    python = read(code)[0]
    assert python.count("\n") == code.count("\n")
    assert ast.parse(python).body[-1].lineno == 6
    assert "addsitedir" in python.split("\n")[2]


@pytest.mark.parametrize(
    "code, expected",
    [
        ("%%bash\necho 1\r\necho 2", ("echo 1\necho 2", SHELL)),
        ("\n%%sh\nls", ("ls", SHELL)),
        ("%%javascript\nlet a = 1", ("let a = 1", NODE)),
        ("%%time\nx = 1", ("pass\nx = 1", None)),
    ],
)
def test_a_cell_magic_selects_the_language(code: str, expected: tuple[str, object]) -> None:
    assert read(code) == expected


@pytest.mark.parametrize(
    "code, step",
    [
        ("%%writefile a.py\nx", "write_file"),
        ("%timeit f()", "plain Python"),
        ("%%html\nx", "plain"),
    ],
)
def test_other_magics_are_refused_with_the_next_step(code: str, step: str) -> None:
    with pytest.raises(InvalidArgument, match="notebook") as refused:
        read(code)
    assert step in refused.value.hint


@given(st.text(alphabet=" !%=;:()[]{}'\"\\#\nab`", max_size=60))
def test_code_that_python_accepts_is_not_changed(code: str) -> None:
    """Code that parses as Python contains no notebook syntax to translate."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    assert read_program(code, "python", PYTHON).code == code


@given(st.text(max_size=100), st.sampled_from([None, "python", "js", "bash"]))
def test_any_text_is_a_program_or_refused(code: str, language: str | None) -> None:
    try:
        program = read_program(code, language, NODE)
    except InvalidArgument:
        return
    assert len(program.code) <= 400 + 10 * len(code) + 200 * code.count("!")


@pytest.mark.parametrize(
    "unit",
    ["!\n", "'''", "(", "\\", "\"'", "a = !b\n", "`", "= !", "```\n", ";!",
     "a;", ":", ";a=!", " ", "a", "``` ", "$ ", ">>> ", "  x\n", "a=", "x@", "<<a "],
)  # fmt: skip
def test_reading_takes_linear_time(unit: str) -> None:
    """These texts would not end in a reader that takes quadratic time."""
    begins = ("```a", "```", "$ ls\n", ">>> a\n", "A=b ", "for i in ", "cat ", "import ", "a@b:")
    for code in (
        *(begin + unit * (500_000 // len(unit)) for begin in begins),
        *(begin + unit * (3_900 // len(unit)) for begin in begins),
        "!x\n" + unit * (500_000 // len(unit)),
        "!x\n" + unit * (60_000 // len(unit)),
    ):
        try:
            read_program(code, None, PYTHON)
        except InvalidArgument:
            continue


@pytest.mark.parametrize("own", [RuntimeName.DATA, RuntimeName.NODE])
def test_a_name_alone_is_a_variable_where_there_are_variables(own: RuntimeName) -> None:
    assert read_program("df", None, own).language is not None
    for code in ("df", "date", "env\n"):
        assert read_program(code, None, own, in_context=True).language is None
    for code in ("ls -l", "df -h"):
        found = read_program(code, None, own, in_context=True).language
        assert found is not None
        assert found.runtime is RuntimeName.SHELL
