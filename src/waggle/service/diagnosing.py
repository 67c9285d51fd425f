# SPDX-License-Identifier: Apache-2.0
"""Gathers the evidence of a failed run and has it judged by `domain.diagnosis`.

Used by `LocalGuest` for runs that did not end with exit code 0; good ones cost nothing. Bounded in
time, and never an error: a failure that cannot be explained has no diagnosis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from waggle.domain.diagnosis import Diagnosis, diagnose
from waggle.domain.environment import Environment
from waggle.domain.errors import WaggleError
from waggle.domain.evidence import NO_RECORD, Evidence, Record, Refused
from waggle.domain.execution import Command, ExecutionResult
from waggle.domain.modules import MAX_TAIL, MISSING, Module, question, suspected

log = structlog.get_logger(__name__)

PATIENCE: Final = 10.0
"""Seconds for everything that a guest is asked about one failure."""
_ANSWER_LIMIT: Final = 1_000

AskWhy = Callable[[str], Awaitable[Record]]
Run = Callable[[Command], Awaitable[ExecutionResult]]
RefusedSince = Callable[[float], Sequence[Refused]]


@dataclass(frozen=True, slots=True)
class Diagnostician:
    """Explains failures in one guest. `refused_since` takes a moment of the monotonic clock."""

    environment: Environment
    why: AskWhy
    run: Run
    refused_since: RefusedSince
    patience: float = PATIENCE

    async def explain(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Why it failed; call it when it has just ended. Safe to cancel."""
        if result.exit_code == 0:
            return None
        refused = tuple(self.refused_since(time.monotonic() - result.duration))
        record, missing = NO_RECORD, None
        try:
            async with asyncio.timeout(self.patience):
                record = await self.why(result.run_id)
                if suspect := suspected(_last(result), result.exit_code):
                    missing = await self._confirmed(suspect, command)
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
                network=self.environment.network,
                record=record,
                refused=refused,
                missing=missing,
            )
        )

    async def _confirmed(self, suspect: Module, command: Command) -> Module | None:
        """The module, if the interpreter does not find it, asked where and as whom it ran."""
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


def _last(result: ExecutionResult) -> str:
    """The end of stderr as text."""
    output = result.stderr
    return (output.head + output.tail)[-MAX_TAIL:].decode("utf-8", "replace")
