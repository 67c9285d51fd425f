# SPDX-License-Identifier: Apache-2.0
"""Modules that a program says it lacks, and how to ask its interpreter whether that is so. Pure.

What a program prints proves nothing: it only tells what to ask. Used by
`waggle.service.local.diagnostician`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from waggle.domain.programs.runtime import RuntimeName

MAX_TAIL = 16_384
"""Characters at the end of stderr that are looked at."""
MISSING = "missing"
"""What a question prints when the module is not there; anything else confirms nothing."""

_PYTHON_NAME = r"([A-Za-z_][A-Za-z0-9_]{0,99}(?:\.[A-Za-z_][A-Za-z0-9_]{0,99}){0,9})"
_PYTHON = re.compile(
    rf"(?:ModuleNotFoundError: No module named '{_PYTHON_NAME}'"
    rf"|\S*python[0-9.]*: No module named {_PYTHON_NAME})"
)
_NODE_NAME = r"((?:@[A-Za-z0-9][\w.-]{0,99}/)?[A-Za-z0-9_][\w.-]{0,99}(?:/[\w./-]{1,200})?)"
_NODE = re.compile(
    rf"(?:Error: Cannot find module '{_NODE_NAME}'"
    rf"|Error \[ERR_MODULE_NOT_FOUND\]: Cannot find package '{_NODE_NAME}' imported from .+)",
    re.ASCII,
)
_NODE_END = re.compile(r"Node\.js v\d+\.\d+\.\d+")

# Looks from package to package without importing any: an import would run the guest's code again.
_ASK_PYTHON = """\
import sys
from importlib.machinery import PathFinder
path, name = None, ''
for part in sys.argv[1].split('.'):
    name = name + '.' + part if name else part
    found = name in sys.builtin_module_names or PathFinder.find_spec(name, path)
    if not found:
        print('missing')
        break
    path = getattr(found, 'submodule_search_locations', None) or []
"""
_ASK_NODE = """\
try { require.resolve(process.argv[1], {paths: [process.cwd()]}) }
catch (error) { if (error.code === 'MODULE_NOT_FOUND') console.log('missing') }
"""


@dataclass(frozen=True, slots=True)
class Module:
    """A module by its name in a language."""

    language: RuntimeName
    name: str


def suspected(stderr: str, exit_code: int | None) -> Module | None:
    """The module that the interpreter's own last message names, if it ended with one."""
    if exit_code != 1:
        return None
    lines = [line.strip() for line in stderr[-MAX_TAIL:].splitlines() if line.strip()]
    if not lines:
        return None
    if match := _PYTHON.fullmatch(lines[-1]):
        return Module(RuntimeName.PYTHON, match[1] or match[2])
    if _NODE_END.fullmatch(lines[-1]):
        for line in reversed(lines):
            if match := _NODE.fullmatch(line):
                return Module(RuntimeName.NODE, match[1] or match[2])
    return None


def question(module: Module, argv: Sequence[str]) -> tuple[str, ...]:
    """The command that prints MISSING unless the interpreter finds the module.

    `argv` is the command that failed: its own interpreter is asked where it names one.
    """
    program = argv[0]
    name = PurePosixPath(program).name
    if module.language is RuntimeName.PYTHON:
        own = re.fullmatch(r"python[0-9.]*", name) is not None
        return (program if own else "python3", "-c", _ASK_PYTHON, module.name)
    return (program if name == "node" else "node", "-e", _ASK_NODE, "--", module.name)
