# SPDX-License-Identifier: Apache-2.0
"""Lines of a notebook in Python code: `!cmd`, `x = !cmd`, `%pip`, `%matplotlib inline`. Pure.

Each such line becomes one line of Python that does the same, so numbers of lines stay. They are
looked for only where a statement begins, also after `;` or `:` on a line: none inside a string or
brackets, or after a backslash. A magic without a plain counterpart is refused with the next step.
Used by `domain.program`.
"""

from __future__ import annotations

import re

from waggle.domain.errors import InvalidArgument

MAX_CODE = 64_000
"""Characters of code in which lines of a notebook are looked for."""
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_SUSPECT = re.compile(r"(?:^|[;:])[ \t]*[!%]|=[ \t]*!", re.MULTILINE)
_NEXT_ON_THE_LINE = re.compile(r"[;:][ \t]*(?=[!%](?!=)|[^\W\d]\w*[ \t]*=[ \t]*!(?!=))")
"""What ends a statement, or begins a block, before a notebook's line; nowhere is that Python."""
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


def cell_language(code: str) -> str | None:
    """The language of a cell that begins with a magic such as %%bash; None for Python."""
    match = _CELL.match(code)
    return _CELL_LANGUAGES.get(match[1].lower()) if match else None


def translated(code: str) -> str:
    """Python code without a notebook's lines. Raises InvalidArgument for a magic it cannot have."""
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
    """Where the line ends in which the statement ends that begins at `at`.

    Before that, where a notebook's line begins after it.
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
    """A notebook's line as Python; None for what is Python, or no line of a notebook either."""
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
    # What is installed just now is to be found by the imports that follow.
    return f"{ran}; {_USER_PACKAGES}" if "install" in command else ran


def _command(text: str) -> str:
    """A command as an expression, with the values of variables in braces."""
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
    raise InvalidArgument(f"{text[:60]!r} works in a notebook only.", hint=step)
