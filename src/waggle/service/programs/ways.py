# SPDX-License-Identifier: Apache-2.0
"""Tries several ways from one state: forks an environment and runs a piece of code in each fork.

Called by `waggle.mcp`, which names the code and how it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.domain.host import Progress
from waggle.domain.programs.job import JobView
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotService, require_count
from waggle.service.programs import Job

Start = Callable[[str, str], Awaitable[Job]]
"""Starts code in the environment of an id, and returns its job."""


@dataclass(frozen=True, slots=True)
class Way:
    """A fork, and how far its code is; or the error because of which it did not run or was lost."""

    environment: Environment
    view: JobView | None = None
    error: WaggleError | None = None


def pieces(code: str | Sequence[str], count: int | None) -> tuple[str, ...]:
    """Return one piece of code for each fork. Raises InvalidArgument."""
    given = (code,) if isinstance(code, str) else tuple(code)
    count = len(given) if count is None else count
    require_count(count)
    if len(given) not in (1, count):
        raise InvalidArgument(
            f"There are {len(given)} pieces of code for {count} forks.",
            hint="Give one for each fork, or one for all of them; without count, there are as many "
            "forks as pieces.",
        )
    return given if len(given) == count else given * count


class Ways:
    """Use case of forks that run code."""

    def __init__(self, environments: EnvironmentService, snapshots: SnapshotService) -> None:
        self._environments = environments
        self._snapshots = snapshots

    async def attempt(
        self,
        origin: str,
        codes: Sequence[str],
        start: Start,
        *,
        owner: str,
        seconds: float,
        progress: Progress,
    ) -> list[Way]:
        """Fork `origin` once for each code, run it there, and wait for all at most `seconds`.

        A fork whose code fails does not stop the others. All forks stay, unless this is cancelled:
        then none does, as nobody knows them. Raises as `SnapshotService.fork` does.
        """
        forks = await self._snapshots.fork(origin, len(codes), owner=owner, progress=progress)
        found: dict[str, Way] = {}

        async def one(fork: Environment, code: str) -> None:
            try:
                job = await start(fork.id, code)
                found[fork.id] = Way(fork, await job.attend(seconds))
            except WaggleError as error:
                found[fork.id] = Way(fork, error=error)

        try:
            await progress(0.8, f"Running code in {len(forks)} copies")
            async with anyio.create_task_group() as group:
                for fork, code in zip(forks, codes, strict=True):
                    group.start_soon(one, fork, code)
        except BaseException:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    for fork in forks:
                        if life := self._environments.life(fork.id):
                            group.start_soon(life.end_quietly)
            raise
        return [found[fork.id] for fork in forks]
