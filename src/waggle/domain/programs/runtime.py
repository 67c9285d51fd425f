# SPDX-License-Identifier: Apache-2.0
"""A runtime: which interpreter runs `execute`, and which installer serves `install_packages`.

Knows command templates and package grammars; knows nothing of images, machines or SSH. Commands are
argv lists from end to end: a template is split once, when settings are read, and placeholders are
replaced as whole words, so no value ever meets a shell. Also checks the environment variables that
clients give, as an object or as NAME=value in a list or lines, and encodes clients' text for every
module that sends text to a guest. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from waggle.domain.errors import InvalidArgument, InvalidRuntime, TooLarge
from waggle.domain.programs.packages import as_command, installer_of

MAX_PACKAGES = 100
MAX_PACKAGE_LENGTH = 512

_MAX_NAME = 40
_VERSION_END = re.compile(r"[ :-]?v?\d[\d.x]*\Z")
_ALIASES = {
    alias: name
    for name, aliases in {
        "python": "python py ipython cpython pypy",
        "node": "node nodejs node.js js javascript mjs cjs ecmascript typescript ts",
        "shell": "shell sh bash dash zsh ash terminal linux ubuntu debian posix-shell shellscript",
        "data": "data data-science datascience pandas jupyter notebook",
    }.items()
    for alias in aliases.split()
}
"""The names that models and Markdown use for runtimes, without a version."""
FILE = "{file}"
PACKAGES = "{packages}"
SHELL = "{shell}"
"""As the first word: bash where the image has it, else its sh, else the guest kit's."""
LOGIN_SHELL = "{login}"
"""As the first word: what the image's file of users says for the user; else as SHELL."""
PYTHON_RUNNER, NODE_RUNNER = "{runner.py}", "{runner.js}"
"""Make an interpreter take code for a file of the work directory (kit/guest/code.c)."""


class RuntimeName(StrEnum):
    """The runtimes that exist; the value is what clients send."""

    PYTHON = "python"
    NODE = "node"
    SHELL = "shell"
    DATA = "data"
    """Python, in an image with the packages that data work usually begins with."""

    @classmethod
    def parse(cls, text: str) -> RuntimeName:
        """Return the runtime that `text` names, also by an alias. Raises InvalidRuntime."""
        name = text[:_MAX_NAME].strip().lower()
        try:
            return cls(_ALIASES.get(_VERSION_END.sub("", name), name))
        except ValueError:
            raise InvalidRuntime(
                f"There is no runtime {text[:40]!r}.", hint=f"Use one of: {', '.join(cls)}."
            ) from None

    @property
    def language(self) -> RuntimeName:
        """The runtime of its language alone: python for every runtime that runs Python."""
        return RuntimeName.PYTHON if self is RuntimeName.DATA else self


# PEP 508 name, extras and PEP 440 version specifiers; no URLs, no markers, no options.
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:===|==|~=|!=|<=|>=|<|>)[A-Za-z0-9.*+!_-]+"
_PYTHON_PACKAGE = re.compile(
    rf"{_WORD}(?:\[{_WORD}(?:,{_WORD})*\])?(?:{_VERSION}(?:,{_VERSION})*)?"
)
# npm: optional scope, name, and a version, range or dist-tag; no URLs, git or file specs. A version
# that starts with a dot would be a directory to npm.
_NODE_PACKAGE = re.compile(
    r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9][A-Za-z0-9._~-]*"
    r"(?:@[A-Za-z0-9^~<>=*_-][A-Za-z0-9.^~<>=*+_-]*)?"
)
# Debian policy 5.6.1 and apk names, with an optional =version. A last `-` would make apt remove the
# package; a last `+` means install, and some names end with it (g++, memtest86+).
_SYSTEM_PACKAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9+._-]*(?<!-)(?:=[A-Za-z0-9][A-Za-z0-9.+:~_-]*(?<!-))?"
)
# pip, npm, apt and apk each take a word that ends like this for a file in the work directory.
_ARCHIVE = re.compile(
    r".*\.(?:whl|zip|tar|tar.gz|tgz|tar.bz2|tbz|tar.xz|txz|tar.lz|tlz|tar.lzma|deb|apk)"
    r"(?:\[.*\])?",
    re.IGNORECASE,
)

_COMPILING = ("--experimental-transform-types", "--disable-warning=ExperimentalWarning")
"""Make Node run enums and the like. Used only for such code: not every Node knows the option."""
_RUNNERS = (
    (re.compile(r"(?:.*/)?python[0-9.]*"), (PYTHON_RUNNER,)),
    (re.compile(r"(?:.*/)?node(?:js)?"), ("-r", NODE_RUNNER)),
    (re.compile(r"(?:.*/)?(?:sh|bash|dash|ash|zsh|ksh)"), ()),
    (re.compile(re.escape(SHELL)), ()),
)
"""Interpreters that run code from outside of the work directory, and how."""

_PIP = (_PYTHON_PACKAGE, "a name with optional extras and version, as pip takes it")
_GRAMMAR: dict[RuntimeName, tuple[re.Pattern[str], str]] = {
    RuntimeName.PYTHON: _PIP,
    RuntimeName.DATA: _PIP,
    RuntimeName.NODE: (_NODE_PACKAGE, "a name with optional scope and version, as npm takes it"),
    RuntimeName.SHELL: (_SYSTEM_PACKAGE, "a distribution package name with optional =version"),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime as configured: how a code file is run and how packages are installed.

    `exec_command` contains `{file}` and `install_command` contains `{packages}`, each as a separate
    word. `install_as_root` is for package managers that change the system.
    """

    name: RuntimeName
    file_extension: str
    exec_command: tuple[str, ...]
    install_command: tuple[str, ...]
    install_as_root: bool = False

    def code_argv(self, *, compiled: bool = False) -> tuple[tuple[str, ...], bool]:
        """Return the argv that runs code sent with a command, and whether the code may lie apart.

        Code for unknown interpreters lies in the work directory, and `compiled` has no effect on
        them.
        """
        words, at = self.exec_command, self.exec_command.index(FILE)
        for program, runner in _RUNNERS:
            if program.fullmatch(words[0]) and not {"-m", "-c", "-e"} & set(words[:at]):
                options = _COMPILING if compiled and NODE_RUNNER in runner else ()
                return (*words[:at], *options, *runner, *words[at:]), True
        return words, False

    def exec_argv(self, file: str) -> tuple[str, ...]:
        """Return the argv that runs the code in `file`, a path inside the guest."""
        return tuple(file if word == FILE else word for word in self.exec_command)

    def install_argv(self, packages: Sequence[str]) -> tuple[str, ...]:
        """Return the argv that installs `packages`, which must have passed `check_packages`."""
        argv: list[str] = []
        for word in self.install_command:
            argv.extend(packages if word == PACKAGES else [word])
        return tuple(argv)

    def check_packages(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names, checked by the ecosystem's own grammar.

        Raises InvalidArgument for an empty list, for more than MAX_PACKAGES, and for anything that
        is not a plain package requirement: options, URLs, paths, archives and shell text are never
        packages.
        """
        if not names:
            raise InvalidArgument("No package was named.", hint="Name at least one package.")
        if len(names) > MAX_PACKAGES:
            raise InvalidArgument(
                f"{len(names)} packages are too many; the limit is {MAX_PACKAGES}.",
                hint="Install them in several calls.",
            )
        grammar, description = _GRAMMAR[self.name]
        for name in names:
            fits = len(name) <= MAX_PACKAGE_LENGTH  # first: it bounds the work of the patterns
            if not (fits and grammar.fullmatch(name) and not _ARCHIVE.fullmatch(name)):
                command = as_command(name, installer_of(self.name))
                step = f', or execute with language "shell" and code "{command}"' if command else ""
                raise InvalidArgument(
                    f"{name[:80]!r} is not a package name for {self.name}.",
                    hint=f"Give {description}{step}.",
                )
        return tuple(names)


def parse_template(template: str, placeholder: str) -> tuple[str, ...]:
    """Split a command template into argv words. Raises ValueError when it cannot be used.

    The placeholder must be a separate word: `python3 {file}`, not `sh -c "x {file}"`.
    """
    words = tuple(shlex.split(template))
    if not words or not words[0] or placeholder in words[0]:
        raise ValueError("the command needs a program to start")
    if [word for word in words if placeholder in word] != [placeholder]:
        raise ValueError(
            f"the command must contain {placeholder} exactly once, as a word of its own"
        )
    return words


NUL_HINT = "Leave the NUL character out; Linux ends a text there."


def encoded(text: str, what: str, *, hint: str = "") -> bytes:
    """Return `text` in UTF-8. Raises InvalidArgument for lone surrogates, which JSON can carry.

    `what` begins the message; `hint` suggests an alternative, where there is one.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise InvalidArgument(
            f"{what} is not valid Unicode text.",
            hint=hint or f"It has {found}, half of a surrogate pair: leave it out or complete it.",
        ) from None


MAX_VARIABLES_BYTES = 32_768
"""Bytes of an environment's own variables, with their names."""

Given = Mapping[str, object] | Sequence[str] | str


def parse_variables(given: Given) -> dict[str, str]:
    """Return names with values, as text; a text has one a line. Raises InvalidArgument."""
    if isinstance(given, str):
        given = [line.strip() for line in given.splitlines() if line.strip()]
    if not isinstance(given, Mapping):
        pairs = [text.partition("=") for text in given]
        if not all(equals for _, equals, _ in pairs):
            raise InvalidArgument(
                "A variable in env has no '='.", hint='Write NAME=value, such as "LANG=C.UTF-8".'
            )
        return _checked({name.strip(): value for name, _, value in pairs})
    return _checked({name: _text(name, value) for name, value in given.items()})


def parse_own_variables(given: Given) -> dict[str, str]:
    """Return variables for all programs of an environment. Raises InvalidArgument or TooLarge."""
    variables = parse_variables(given)
    size = sum(len(encoded(f"{name}={value}", "env")) + 1 for name, value in variables.items())
    if size > MAX_VARIABLES_BYTES:
        raise TooLarge(
            f"The variables are over {MAX_VARIABLES_BYTES} bytes together.",
            hint="Put what is long into a file.",
        )
    return variables


def check_variable_names(names: Iterable[str]) -> None:
    """Raise InvalidArgument for a name that no environment variable can have."""
    if any(not name or "=" in name for name in names):
        raise InvalidArgument(
            "The name of an environment variable is empty or contains '='.",
            hint='Give env as names with values, such as {"LANG": "C.UTF-8"}.',
        )


def _checked(variables: dict[str, str]) -> dict[str, str]:
    check_variable_names(variables)
    if any("\0" in name + value for name, value in variables.items()):
        raise InvalidArgument("A variable cannot contain NUL.", hint=NUL_HINT)
    return variables


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise InvalidArgument(
        f"The value of {name[:60]!r} in env is no text.",
        hint='Values are text or numbers; write "" for an empty one.',
    )
