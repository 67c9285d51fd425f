# SPDX-License-Identifier: Apache-2.0
"""What is known of a run that failed.

Gathered by `waggle.service.local.diagnostician`, judged by `domain.diagnosis`. The guest wrote
`Record`: it may lie, which misleads nobody but its owner.
"""

from __future__ import annotations

from dataclasses import dataclass

from waggle.domain.diagnosis.modules import Module
from waggle.domain.listening import Listener
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.execution import GuestUser
from waggle.domain.programs.runtime import RuntimeName


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes, or inodes, of a file system."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the guest's kernel and launcher know; see kit/guest/why.c. Zero or None: nothing.

    `exec_error` is the errno with which the launcher could not execute the program: `file` is that
    program where it was found, `needs` what it names as its interpreter or loader and is missing.
    Without such an error, `needs_carriage_return` says that the run named a script `needs` whose
    first line ends with a carriage return.
    `directory_error` is the errno with which it could not enter the directory to run in.
    Memory is bytes. `forks_refused`, `unrouted` (packets and connections to addresses without a
    route) and `unheard` (datagrams to ports where nothing listens, as name servers that are not
    there) count for the whole guest, during the run. `have` is those of the programs asked for that
    are there; None when that is not known.
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


NO_RECORD = Record()


@dataclass(frozen=True, slots=True)
class Refused:
    """A connection that the egress policy refused. The guest chose host and port.

    `code` and `reason` are those of the verdict.
    """

    host: str
    port: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it. `signal` is a name such as SIGKILL; `program` the first word of the command.

    `missing` is a module, and `command` a command, of which the guest confirmed that it is not
    there. `listeners` were asked for only where an address was in use. `memory_mib` and `disk_mib`
    are what the machine was given. `said` is the end of what it printed, which proves nothing.
    """

    program: str
    exit_code: int | None
    signal: str | None
    memory_mib: int
    disk_mib: int
    network: NetworkPolicy
    record: Record = NO_RECORD
    refused: tuple[Refused, ...] = ()
    missing: Module | None = None
    command: str | None = None
    listeners: tuple[Listener, ...] = ()
    said: str = ""
    runtime: RuntimeName = RuntimeName.SHELL
    user: GuestUser = GuestUser.SANDBOX
