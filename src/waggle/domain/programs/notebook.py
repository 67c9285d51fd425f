# SPDX-License-Identifier: Apache-2.0
"""Notebook lines in Python code: `!cmd`, `x = !cmd`, `%pip`, `%matplotlib inline`. Pure.

Used by `domain.programs.program`, and in guests by contexts whose image has no IPython: the kit has
this file as `waggle_notebook`. So it runs on Python 3.8 and imports nothing of waggle.

Each notebook line becomes one line of equivalent Python, so line numbers stay. Notebook lines are
recognised only where a statement begins, also after `;` or `:` on a line: never inside a string or
brackets, or after a backslash. A magic without a plain counterpart is refused with the next step.
"""

from __future__ import annotations

import re

MAX_CODE = 64_000
"""Characters of code that is searched for notebook lines."""
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_SUSPECT = re.compile(r"(?:^|[;:])[ \t]*[!%]|=[ \t]*!", re.MULTILINE)
_NEXT_ON_THE_LINE = re.compile(r"[;:][ \t]*(?=[!%](?!=)|[^\W\d]\w*[ \t]*=[ \t]*!(?!=))")
"""The end of a statement or the head of a block before a notebook line; never valid Python."""
_TOKEN = re.compile(
    r"\"\"\"(?:[^\\\"]|\\.|\"(?!\"\"))*(?:\"\"\"|\Z)|'''(?:[^\\']|\\.|'(?!''))*(?:'''|\Z)"
    r"|\"(?:[^\\\"\n]|\\.)*\"?|'(?:[^\\'\n]|\\.)*'?|#[^\n]*"
    r"|\\\n|[()\[\]{}\n]|[^\"'#\\()\[\]{}\n]+|\\",
    re.DOTALL,
)
_CELL = re.compile(r"\s*%%(\w+)")
_CELL_LANGUAGES = {
    **dict.fromkeys(("bash", "sh", "shell", "script", "system"), "shell"),
    **dict.fromkeys(("javascript", "js"), "node"),
}
_CELLS_DROPPED = frozenset({"time", "capture", "python", "python3"})
_DROPPED = frozenset(
    ("matplotlib", "load_ext", "reload_ext", "autoreload", "config", "precision", "pylab")
)
_SHELL = frozenset(("pip", "uv", "conda", "ls", "ll", "cat", "mkdir", "cp", "mv", "rm", "pwd"))
_VALUE = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")
_USER_PACKAGES = '__import__("site").addsitedir(__import__("site").getusersitepackages())'


class NotebookOnly(ValueError):
    """A magic that has no plain counterpart: a message, and the next step as its hint."""

    def __init__(self, text: str, hint: str) -> None:
        self.message, self.hint = f"{text[:60]!r} works in a notebook only.", hint
        super().__init__(f"{self.message} {hint}")


def cell_language(code: str) -> str | None:
    """Return the language of a cell that begins with a magic such as %%bash; None for Python."""
    match = _CELL.match(code)
    return _CELL_LANGUAGES.get(match[1].lower()) if match else None


def translated(code: str) -> str:
    """Return code with notebook lines as Python. Raises NotebookOnly for an unusable magic."""
    if len(code) > MAX_CODE or not _SUSPECT.search(code):
        return code
    parts: list[str] = []
    at = 0
    while at < len(code):
        end = code.find("\n", at)
        line = code[at:] if end < 0 else code[at:end]
        python = _python(line.rstrip())
        if python is None:
            end = _end_of_statement(code, at)
            parts.append(code[at:end])
            at = end
        else:
            parts.append(python + "\n" * (end >= 0))
            at = len(code) if end < 0 else end + 1
    return "".join(parts)


def _end_of_statement(code: str, at: int) -> int:
    """Return the end of the line in which the statement that begins at `at` ends.

    If a notebook line follows the statement on that line, return where that begins instead.
    """
    depth = 0
    while at < len(code):
        match = _TOKEN.match(code, at)
        part = match[0] if match else code[at]
        if not depth and (following := _NEXT_ON_THE_LINE.search(part)) and part[0] not in "\"'#":
            return at + following.end()
        at += len(part)
        if part == "\n" and not depth:
            break
        depth = max(0, depth + (part in _OPENING) - (part in _CLOSING))
    return at


def _python(line: str) -> str | None:
    """Return a notebook line as Python; None for any other line."""
    text = line.lstrip(" \t")
    indent = line[: len(line) - len(text)]
    if text.startswith("!") and not text.startswith("!="):
        return indent + _run(text.lstrip("! \t"))
    if text.startswith("%"):
        return indent + _magic(text)
    name, assigned, value = text.partition("=")
    if assigned and value.lstrip(" \t").startswith("!") and name.strip().isidentifier():
        command = _command(value.lstrip("! \t"))
        return f'{indent}{name}= __import__("subprocess").getoutput({command}).splitlines()'
    return None


def _run(command: str) -> str:
    ran = f'__import__("subprocess").run({_command(command)}, shell=True)'
    # Makes newly installed packages visible to the imports that follow. No value is shown.
    return f"{ran}; {_USER_PACKAGES};" if "install" in command else f"{ran};"


def _command(text: str) -> str:
    """Return a command as an expression, with the values of variables in braces."""
    values = "".join(
        f".replace('{{{name}}}', str({name}))" for name in dict.fromkeys(_VALUE.findall(text))
    )
    return f"{text!r}{values}"


def _magic(text: str) -> str:
    name, _, rest = text.lstrip("%").strip().partition(" ")
    rest = rest.strip()
    if text.startswith("%%"):
        if name in _CELLS_DROPPED:
            return "pass"
    elif name in _DROPPED:
        return "pass"
    elif name in _SHELL:
        return _run(f"{name} {rest}".strip())
    elif name == "time" and rest:
        return rest
    elif name == "cd" and rest:
        return f'__import__("os").chdir(__import__("os").path.expanduser({rest!r}))'
    elif name in {"env", "set_env"} and "=" in rest:
        variable, _, value = rest.partition("=")
        return f'__import__("os").environ[{variable.strip()!r}] = {value.strip()!r}'
    elif name == "run" and rest and " " not in rest:
        return f'__import__("runpy").run_path({rest!r}, run_name="__main__")'
    step = (
        "Write the file with write_file."
        if name in {"writefile", "file"}
        else 'Write it in plain Python; for commands call execute with language "shell".'
    )
    raise NotebookOnly(text, step)
