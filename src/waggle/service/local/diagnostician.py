# SPDX-License-Identifier: Apache-2.0
"""Why a program in a guest failed, and why a call to a guest broke. Part of `LocalGuest`.

`Diagnostician` gathers evidence of a failed run for `domain.diagnosis`. A run with exit code 0
costs nothing, unless its output says that a command was not found, as that of a pipeline may, or it
was refused a connection, which programs hide: that is reported once. It is bounded in time and
never raises: a failure without an explanation has no diagnosis. `Causes` names what broke a call:
the guest is destroyed, its machine died, or it is stopped by a full disk. It knows the machine, not
the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from waggle.domain.diagnosis import (
    ASK_LISTENERS,
    MAX_TAIL,
    MISSING,
    NO_RECORD,
    Diagnosis,
    Evidence,
    Listener,
    Module,
    RunFacts,
    address_is_taken,
    parse_listeners,
    question,
    suspected,
)
from waggle.domain.diagnosis.lacking import TOOLS, missing_command
from waggle.domain.diagnosis.reach import refusal
from waggle.domain.diagnosis.rules import diagnose, machine_died
from waggle.domain.environment import Environment
from waggle.domain.errors import DiskFull, GuestLost, TimedOut, WaggleError
from waggle.domain.machine import Machine
from waggle.domain.network import Network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.use import NO_USE, NetworkUse
from waggle.domain.programs import Command, ExecutionResult, GuestUser
from waggle.domain.programs.guest_job import Detached
from waggle.infra.ssh import SshSilent
from waggle.service.local.health import NotAsked

log = structlog.get_logger(__name__)

PATIENCE: Final = 10.0
"""Seconds for all questions to a guest about one failure."""
MOST_REPORTED: Final = 256
_ANSWER_LIMIT: Final = 1_000
_LISTENERS_LIMIT: Final = 10_000

AskWhy = Callable[[str, Sequence[str]], Awaitable[RunFacts]]
Run = Callable[[Command], Awaitable[ExecutionResult]]


@dataclass(frozen=True, slots=True)
class Diagnostician:
    """Explains failures in one guest. `use` returns what it has made of its network.

    Refusals belong to a run by time: of two runs at the same time, both have those of both.
    """

    environment: Environment
    why: AskWhy
    run: Run
    use: Callable[[], NetworkUse | None]
    patience: float = PATIENCE
    _reported: dict[Decision, None] = field(default_factory=dict[Decision, None])
    """What was refused to runs that did not fail, and reported; at most MOST_REPORTED."""

    async def explain(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Return why it failed. Call it as soon as it has ended. Safe to cancel.

        Of a run that did not fail, return what it was refused, if that was not reported before.
        """
        said = _last(result)
        command_name = missing_command(said)
        use = self.use() or NO_USE
        refused = use.denied_within(result.duration)
        if result.exit_code == 0:
            refused = self._unreported(refused)
            if command_name is None:
                return refusal(refused, use.network, self.environment.name)
        record, missing = NO_RECORD, None
        listeners: tuple[Listener, ...] = ()
        try:
            async with asyncio.timeout(self.patience):
                tools = (*TOOLS, *([command_name] if command_name else []))
                record = await self.why(result.run_id, tools)
                if suspect := suspected(said, result.exit_code):
                    missing = await self._confirmed(suspect, command)
                if address_is_taken(said):
                    listeners = await self._listening()
        except (TimeoutError, WaggleError) as error:
            log.info("diagnosis_incomplete", environment=self.environment.id, why=repr(error))
        except Exception:
            log.exception("diagnosis_failed", environment=self.environment.id)
        return diagnose(
            Evidence(
                program=command.argv[0],
                exit_code=result.exit_code,
                signal=result.signal,
                memory_mib=self.environment.resources.memory_mib,
                disk_mib=self.environment.resources.disk_mib,
                network=self._network(use),
                record=record,
                refused=refused,
                reached=use.reached_within(result.duration),
                secrets=self.environment.secrets.hosts_of(self.environment.variables),
                missing=missing,
                command=_absent(command_name, record),
                listeners=listeners,
                said=said,
                runtime=self.environment.runtime,
                user=command.user,
                name=self.environment.name,
            )
        )

    def _network(self, use: NetworkUse) -> Network:
        return self.environment.network if use is NO_USE else use.network

    def _unreported(self, refused: Sequence[Decision]) -> tuple[Decision, ...]:
        """Return those that were not reported before, and note that they are now."""
        unreported = tuple(decision for decision in refused if decision not in self._reported)
        for decision in unreported:
            if len(self._reported) >= MOST_REPORTED:
                del self._reported[next(iter(self._reported))]
            self._reported[decision] = None
        return unreported

    async def _confirmed(self, suspect: Module, command: Command) -> Module | None:
        """Return the module if the interpreter lacks it; asks in the run's place, as its user."""
        ask = Command(
            argv=question(suspect, command.argv),
            timeout=self.patience,
            output_limit=_ANSWER_LIMIT,
            cwd=command.cwd,
            env=command.env,
            user=command.user,
        )
        answer = await self.run(ask)
        said = answer.stdout.text().strip()
        return suspect if answer.exit_code == 0 and said == MISSING else None

    async def _listening(self) -> tuple[Listener, ...]:
        """Return the listening programs by port; empty if the image has no tool for it."""
        ask = Command(
            ASK_LISTENERS,
            timeout=self.patience,
            output_limit=_LISTENERS_LIMIT,
            cwd="/",
            user=GuestUser.ROOT,
        )
        return parse_listeners((await self.run(ask)).stdout.text())


def _absent(name: str | None, record: RunFacts) -> str | None:
    """Return the command if the guest is known not to have it."""
    return name if record.have is not None and name not in record.have else None


def _last(result: ExecutionResult) -> str:
    """Return the end of stderr as text; of stdout if stderr is empty, as after `2>&1`."""
    output = result.stderr if result.stderr.total else result.stdout
    return (output.head + output.tail)[-MAX_TAIL:].decode("utf-8", "replace")


ENDED = (
    "The environment was restarted, or destroyed, before this call's end.",
    "If it was restarted, its files are there: call again.",
)
_AGAIN = "Call again."
_RESTART = "If it repeats, restart_environment boots it again with its files."
_SETTLE_SECONDS = 1.0
"""How long a broken call waits for the machine's death, to name that as the cause."""


class Causes:
    """The causes for one machine. `stalled` is called with whether a full disk stops it."""

    def __init__(
        self,
        machine: Machine,
        require_good_conduct: Callable[[], None],
        why_silent: Callable[[], Awaitable[str]],
        *stalled: Callable[[bool], None],
    ) -> None:
        """`require_good_conduct` raises an error with the misconduct if the guest misbehaves.

        `why_silent` returns what else is known of a guest that takes no connection.
        """
        self._why_silent = why_silent
        self._machine = machine
        self._require_good_conduct = require_good_conduct
        self._when_stalled = stalled
        self._stalled: DiskFull | None = None
        self._ended: GuestLost | None = None
        self._notify: Callable[[DiskFull | None], None] = lambda _why: None
        machine.when_stalled(self._stall)

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """See `domain.host.Guest.when_stalled`."""
        self._notify = notify
        if self._stalled is not None:
            notify(self._stalled)

    def _stall(self, why: DiskFull | None) -> None:
        self._stalled = why
        for stalled in self._when_stalled:
            stalled(why is not None)
        self._notify(why)

    def ends(self, why: str, hint: str | None = None) -> None:
        """Make this the cause of broken calls from now on, unless it is dead already."""
        if self._machine.is_alive:
            self._ended = GuestLost(why, hint=hint)

    def require_unstalled(self) -> None:
        """Raise DiskFull while it is stopped by a full disk."""
        if self._stalled is not None:
            raise DiskFull(self._stalled.message, hint=self._stalled.hint)

    @contextlib.asynccontextmanager
    async def named(self) -> AsyncGenerator[None]:
        """Replace a GuestLost or TimedOut of the block by the error that is its cause, if known.

        The cause is an event of the machine or misconduct of the guest.
        """
        try:
            yield
        except TimedOut:
            self._require_wanted()
            self.require_unstalled()
            raise
        except Detached:
            raise  # the machine is being paused, and may end for that
        except GuestLost as error:
            self._require_wanted()
            self.require_unstalled()
            self._require_good_conduct()
            if isinstance(error, NotAsked) and self._machine.is_alive:
                raise _of_living(error) from error
            cause: str | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    cause = await self._machine.wait()
            if isinstance(error, SshSilent) and cause is None:
                known = f"{error.message} {await self._why_silent()}"
                raise SshSilent(known, hint=_of_living(error).hint) from error
            if cause is None:
                raise _of_living(error) from error
            died = machine_died(cause)
            raise GuestLost(died.cause, hint=died.next_step) from error

    def _require_wanted(self) -> None:
        if self._ended is not None:
            raise GuestLost(self._ended.message, hint=self._ended.hint)


def _of_living(error: GuestLost) -> GuestLost:
    """Return the error of a machine that has not died: its files are not gone."""
    own = "" if error.hint == GuestLost.default_hint else error.hint
    return GuestLost(error.message, hint=f"{own or _AGAIN} {_RESTART}")
