# SPDX-License-Identifier: Apache-2.0
"""Run code and install packages in an environment.

Called by `waggle.mcp`; goes through `EnvironmentService.using`, so a running execution keeps its
environment alive. Knows runtimes and limits; nothing of SSH.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument
from waggle.domain.execution import (
    HOME,
    Command,
    ExecutionResult,
    GuestUser,
    parse_code,
    parse_seconds,
)
from waggle.domain.filesystem import parse_path
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import FILE, Runtime, RuntimeName
from waggle.service.environments import EnvironmentService


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Seconds, and bytes kept of each output stream."""

    default_timeout: float
    max_timeout: float
    install_timeout: float
    output_bytes: int


class ExecutionService:
    """Code and packages, in any environment of the caller."""

    def __init__(
        self,
        environments: EnvironmentService,
        runtimes: Mapping[RuntimeName, Runtime],
        limits: ExecutionLimits,
    ) -> None:
        self._environments = environments
        self._runtimes = runtimes
        self._limits = limits

    async def execute(
        self,
        environment_id: str,
        code: str,
        *,
        owner: str,
        language: str | None = None,
        timeout_seconds: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> ExecutionResult:
        """Run code with the environment's interpreter, or with that of another `language`.

        Not idempotent. Cancelling kills the process tree in the guest. Raises InvalidArgument,
        TooLarge, InvalidRuntime, NotFound, NotRunning or GuestLost.
        """
        data = parse_code(code)
        chosen = RuntimeName.parse(language) if language else None
        timeout = parse_seconds(
            timeout_seconds, self._limits.default_timeout, self._limits.max_timeout
        )
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            runtime = self._runtimes[chosen or environment.runtime]
            return await guest.run(
                Command(
                    argv=runtime.exec_argv(FILE),
                    code=data,
                    extension=runtime.file_extension,
                    timeout=timeout,
                    output_limit=self._limits.output_bytes,
                    cwd=None if cwd is None else parse_path(cwd),
                    env=dict(env or {}),
                    stdin=_encode(stdin),
                )
            )

    async def install(
        self, environment_id: str, packages: str | Sequence[str], *, owner: str
    ) -> ExecutionResult:
        """Install packages so that the next `execute` can use them.

        Idempotent as far as the package manager is. Raises as `execute` does.
        """
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            if environment.network is NetworkPolicy.NONE:
                raise InvalidArgument(
                    f"Environment {environment.id} has no network to install from.",
                    hint="Create one with network 'public', or bring an image with the packages.",
                )
            runtime = self._runtimes[environment.runtime]
            argv = runtime.install_argv(runtime.parse_packages(packages))
            return await guest.run(
                Command(
                    argv=argv,
                    timeout=self._limits.install_timeout,
                    output_limit=self._limits.output_bytes,
                    cwd=HOME,
                    user=GuestUser.ROOT if runtime.install_as_root else GuestUser.SANDBOX,
                )
            )


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument("stdin is not valid Unicode text.") from None
