# SPDX-License-Identifier: Apache-2.0
"""The evidence of a failed run, the diagnosis made from it, and what the guest is asked. Pure.

`waggle.service.local.diagnostician` gathers evidence and `diagnosis.rules` judges it. The guest
wrote `Record` and the answers: it may lie, which misleads only its owner. A program's output proves
nothing; it only decides what the guest is asked: which module its interpreter does not find, or
which programs listen on ports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from waggle.domain.network import Network
from waggle.domain.network.decisions import ENVIRONMENT, Decision
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

MAX_TAIL = 16_384
"""Characters at the end of stderr that are examined."""
MISSING = "missing"
"""The answer when the module is not there; any other answer confirms nothing."""

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
_NODE_END = re.compile(r"Node\.js v\d+\.\d+\.\d+|\}")
"""The last line: of a program, or of an error with its properties in a context."""

# Walks the packages without importing any: an import would run the guest's code again.
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
    """Return the module that the interpreter's last message names as missing, if any."""
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
    """Return the command that prints MISSING unless the interpreter finds the module.

    `argv` is the command that failed: if it names an interpreter, that one is asked.
    """
    program = argv[0]
    name = PurePosixPath(program).name
    if module.language is RuntimeName.PYTHON:
        own = re.fullmatch(r"python[0-9.]*", name) is not None
        return (program if own else "python3", "-c", _ASK_PYTHON, module.name)
    return (program if name == "node" else "node", "-e", _ASK_NODE, "--", module.name)


MAX_LISTENERS = 20
_MAX_ANSWER = 8_192
_ADDRESS_IN_USE = re.compile(r"[Aa]ddress already in use|EADDRINUSE")
_LISTENER = re.compile(r"(\d{1,7}) ([0-9A-F]{4}) (.+)")
_TAKEN_BY_US = re.compile(r"\S*dropbear\b")
"""The kit's SSH server, through which the server reaches the guest: an agent cannot end it."""
_LISTENING = r"""
ls -l /proc/[0-9]*/fd 2>/dev/null | awk '
BEGIN {
  split("/proc/net/tcp /proc/net/tcp6", tables, " ")
  for (t in tables) while ((getline line < tables[t]) > 0) {
    split(line, field, " ")
    if (field[4] != "0A" || field[2] ~ /^020012C6/) continue
    n = split(field[2], at, ":"); port[field[10]] = at[n]
  }
}
/^\/proc\// { split($1, part, "/"); pid = part[3] }
match($0, /socket:\[[0-9]+/) {
  inode = substr($0, RSTART + 8, RLENGTH - 8)
  if (inode in port && !seen[pid, port[inode]]++) print pid, port[inode]
}' | while read -r pid port; do
  printf '%s %s %s\n' "$pid" "$port" "$(tr '\0\n' '  ' <"/proc/$pid/cmdline" | cut -c 1-200)"
done
"""
ASK_LISTENERS = ("sh", "-c", _LISTENING)
"""The command, for any guest with `sh` and `awk`. Only root sees which process owns a socket.

Those of the kit's `reach`, on 198.18.0.2, are left out: they keep no port from a program."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that listens on a TCP port. `command` is its words."""

    port: int
    pid: int
    command: str


def address_is_taken(said: str) -> bool:
    """Whether a program printed so; only then is the guest asked for its listeners."""
    return _ADDRESS_IN_USE.search(said) is not None


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Return the listeners in the answer, lowest port first; other lines are skipped."""
    found: set[tuple[int, int, str]] = set()
    for line in text[:_MAX_ANSWER].splitlines():
        match = _LISTENER.fullmatch(line.rstrip())
        if match and not _TAKEN_BY_US.match(match[3]):
            found.add((int(match[2], 16), int(match[1]), match[3]))
    return tuple(Listener(*fields) for fields in sorted(found)[:MAX_LISTENERS])


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes, or inodes, of a file system."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts from the guest's kernel and launcher; see kit/guest/why.c. Zero or None: unknown.

    `exec_error` is the errno with which the launcher could not execute the program: `file` is that
    program where it was found, `needs` the interpreter or loader that it names and that is missing.
    Without `exec_error`, `needs_carriage_return` means that the run named a script `needs` whose
    first line ends with a carriage return. `directory_error` is the errno with which the launcher
    could not enter the directory to run in. Memory is bytes. `forks_refused`, `unrouted` (packets
    and connections to addresses without a route) and `unheard` (datagrams to ports where nothing
    listens, such as missing name servers) count for the whole guest, during the run. `have` is the
    subset of the programs asked for that exist; None when that is not known.
    """

    exit_code: int | None = None
    signal: int | None = None
    exec_error: int | None = None
    directory_error: int | None = None
    file: str = ""
    needs: str = ""
    needs_carriage_return: bool = False
    oom_kills: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    memory_shared: int = 0
    forks_refused: int = 0
    process_limit: int = 0
    disk: Space | None = None
    inodes: Space | None = None
    shm: Space | None = None
    unrouted: int = 0
    unheard: int = 0
    have: frozenset[str] | None = None


NO_RECORD = RunFacts()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence of one run. `signal` is a name such as SIGKILL; `program` is argv's first word.

    `reached` are hosts of connections, `secrets` the variables with placeholders and their hosts.
    `missing` is a module, and `command` a command, that the guest confirmed to be missing.
    `listeners` are asked for only where an address was in use. `memory_mib` and `disk_mib` are the
    machine's. `said` is the end of what the run printed, which proves nothing.
    """

    program: str
    exit_code: int | None
    signal: str | None
    memory_mib: int
    disk_mib: int
    network: Network
    record: RunFacts = NO_RECORD
    refused: tuple[Decision, ...] = ()
    reached: tuple[str, ...] = ()
    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    missing: Module | None = None
    command: str | None = None
    listeners: tuple[Listener, ...] = ()
    said: str = ""
    runtime: RuntimeName = RuntimeName.SHELL
    user: GuestUser = GuestUser.SANDBOX
    name: str = ENVIRONMENT
    """The environment's."""


MAX_NAME = 120
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause and a next step. `code` is stable and machine-readable; both sentences are prose."""

    code: str
    cause: str
    next_step: str

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.cause} {self.next_step}"


def shown(text: str) -> str:
    """Return a name that the guest or a client chose, made safe for a sentence."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME])
    return kept if len(text) <= MAX_NAME else f"{kept}..."


def mib(size: int) -> str:
    """Return bytes as MiB, for a sentence."""
    return f"{size / _MIB:,.1f}" if size < 10 * _MIB else f"{size // _MIB:,}"
