# SPDX-License-Identifier: Apache-2.0
"""Runs code and commands and installs packages in an environment, as jobs.

Called by `waggle.mcp`; decides what runs and passes it to `JobService`. Knows runtimes and limits;
nothing of SSH.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import HOME, Command, GuestUser, parse_code
from waggle.domain.programs.context import (
    CONTEXT_SECONDS,
    ContextKey,
    driver_argv,
    parse_context,
)
from waggle.domain.programs.guest_job import Attributes
from waggle.domain.programs.job import JobKind, summarise
from waggle.domain.programs.packages import Installer, installer_of, read_packages
from waggle.domain.programs.program import read_program, unix_lines
from waggle.domain.programs.runtime import (
    PYTHON_RUNNER,
    SHELL,
    Runtime,
    RuntimeName,
)
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import INSTALLS, Job, What
from waggle.service.programs.jobs import JobService
from waggle.service.programs.surroundings import PLAIN, Surroundings

_SHELL = (SHELL, "-c")
_RUNTIMES = {
    Installer.PIP: RuntimeName.PYTHON,
    Installer.NPM: RuntimeName.NODE,
    Installer.SYSTEM: RuntimeName.SHELL,
}
"""The runtime that installs packages which the environment's own runtime cannot."""


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Seconds, and `output`, the characters of output in one result by default.

    `wait` is how long a call waits by default, `max_timeout` how long a program may run at most.
    """

    wait: float
    max_timeout: float
    install_timeout: float
    output: int


class ExecutionService:
    """Use cases of code, commands and packages.

    `execute`, `run_command` and `install` start a job and return it; `Job.attend` waits for it. Not
    idempotent. They raise InvalidArgument, TooLarge, NotFound, NotRunning or TooManyJobs; the job
    reports later errors.
    """

    def __init__(
        self,
        environments: EnvironmentService,
        jobs: JobService,
        runtimes: Mapping[RuntimeName, Runtime],
        limits: ExecutionLimits,
    ) -> None:
        self._environments = environments
        self._jobs = jobs
        self._runtimes = runtimes
        self._limits = limits

    def check(
        self,
        code: str,
        runtime: RuntimeName,
        how: Surroundings,
        *,
        packages: str | Sequence[str] = (),
        context: str | None = None,
    ) -> None:
        """Raise the argument errors of `execute` and, if there are packages, `install`."""
        if context is None:
            self._program(code, None, runtime, how)
        else:
            self._cell(code, None, runtime, how, GuestUser.SANDBOX, context)
        if packages:
            self._installation(packages, runtime)

    def runtime_for_code(
        self, code: str, language: str | None, requested: str | None, how: Surroundings
    ) -> RuntimeName:
        """Return the runtime of a new environment for a program: the default one if it can run it.

        Raises what `execute` would, and InvalidRuntime.
        """
        parse_code(code)
        runtime = self._environments.limits.runtime_of(requested)
        chosen = read_program(code, language, runtime).language
        if not requested and chosen and chosen.runtime not in (runtime.language, RuntimeName.SHELL):
            runtime = chosen.runtime
        self._program(code, language, runtime, how)
        return runtime

    def require_runtime(self, environment: Environment, requested: str) -> None:
        """Raise InvalidArgument if code of the requested runtime would not run as such there.

        That of python does where the runtime is data, and not the other way round.
        """
        wanted = self._environments.limits.runtime_of(requested)
        if wanted not in (environment.runtime, environment.runtime.language):
            raise InvalidArgument(
                f"This environment's runtime is {environment.runtime}, not {wanted}.",
                hint="Leave out runtime, and name the language of the code if it is another; or "
                "leave out environment_id to create an environment.",
            )

    def runtime_for_packages(
        self, packages: str | Sequence[str], requested: str | None
    ) -> RuntimeName:
        """Return the runtime of a new environment for packages. Raises what `install` would."""
        runtime = self._environments.limits.runtime_of(requested)
        installer = read_packages(packages).installer
        if not requested and installer not in (None, Installer.SYSTEM, installer_of(runtime)):
            runtime = _RUNTIMES[installer]
        self._installation(packages, runtime)
        return runtime

    def names_to_install(
        self, packages: str | Sequence[str], runtime: RuntimeName
    ) -> tuple[str, ...]:
        """Return the packages to install. Raises what `install` would."""
        return tuple(self._installation(packages, runtime)[0])

    async def execute(
        self,
        environment_id: str,
        code: str,
        *,
        owner: str,
        language: str | None = None,
        user: GuestUser = GuestUser.SANDBOX,
        how: Surroundings = PLAIN,
        context: str | None = None,
    ) -> Job:
        """Run code with the environment's interpreter, or with that of another `language`.

        In a new process, or in the `context` of that name, which begins at its first use. Raises
        InvalidRuntime, too.
        """
        environment = self._environments.get(environment_id, owner=owner)
        if context is None:
            command = self._program(code, language, environment.runtime, how, user=user)
            attributes = how.attributes(has_displays=PYTHON_RUNNER in command.argv)
            what = What(JobKind.EXECUTE, summarise(code), attributes=attributes)
            return await self._jobs.start(environment.id, command, what, owner=owner)
        key, command = self._cell(code, language, environment.runtime, how, user, context)
        driver = Command(command.argv, CONTEXT_SECONDS, user=user)
        what = What(
            JobKind.EXECUTE,
            summarise(code),
            queue=key.queue,
            attributes=Attributes(has_displays=True, keeps_input=how.stdin_open),
            context=key,
        )
        return await self._jobs.start(environment.id, command, what, owner=owner, driver=driver)

    async def run_command(
        self,
        environment_id: str,
        command: str | Sequence[str],
        *,
        owner: str,
        user: GuestUser = GuestUser.SANDBOX,
        how: Surroundings = PLAIN,
    ) -> Job:
        """Run a command line in the guest's shell, or a list as a program with arguments."""
        if isinstance(command, str):
            command = unix_lines(command)
        argv = (*_SHELL, command) if isinstance(command, str) else tuple(command)
        if not argv or not argv[-1 if isinstance(command, str) else 0].strip():
            raise InvalidArgument(
                "The command is empty.", hint='Write "ls -l /tmp" or ["ls", "-l", "/tmp"].'
            )
        text = command if isinstance(command, str) else " ".join(command)
        what = What(JobKind.COMMAND, summarise(text), attributes=how.attributes())
        ready = how.command(argv, user, self._limits.max_timeout)
        return await self._jobs.start(environment_id, ready, what, owner=owner)

    async def install(
        self, environment_id: str, packages: str | Sequence[str], *, owner: str
    ) -> Job:
        """Install packages so that the next program can use them.

        Idempotent as far as the package manager is. Installations of one environment take turns; a
        call for one that is under way gets its job.
        """
        environment = self._environments.get(environment_id, owner=owner)
        if environment.network.is_none:
            raise InvalidArgument(
                f"Environment {environment.id} has no network to install from.",
                hint="Create one with network 'public', or bring an image with the packages.",
            )
        names, command = self._installation(packages, environment.runtime)
        what = What(JobKind.INSTALL, summarise(" ".join(names)), command.argv, INSTALLS)
        return await self._jobs.start(environment.id, command, what, owner=owner)

    def _installation(
        self, packages: str | Sequence[str], own: RuntimeName
    ) -> tuple[Sequence[str], Command]:
        """Return the package names and the command of the requested or default installer."""
        wanted = read_packages(packages)
        default = installer_of(own)
        installer = wanted.installer or default
        runtime = self._runtimes[own if installer is default else _RUNTIMES[installer]]
        names = runtime.check_packages(wanted.names)
        command = Command(
            argv=runtime.install_argv(("--upgrade", *names) if wanted.upgrade else names),
            timeout=self._limits.install_timeout,
            cwd=HOME,
            user=GuestUser.ROOT if runtime.install_as_root else GuestUser.SANDBOX,
        )
        return names, command

    def _program(
        self,
        code: str,
        language: str | None,
        own: RuntimeName,
        how: Surroundings,
        *,
        user: GuestUser = GuestUser.SANDBOX,
    ) -> Command:
        parse_code(code)  # first: it bounds what is read below
        program = read_program(code, language, own)
        data, chosen = parse_code(program.code), program.language
        runtime = self._runtimes[chosen.runtime if chosen else own]
        extension = chosen.extension if chosen else None
        argv, apart = runtime.code_argv(compiled=chosen is not None and chosen.compiled)
        return replace(
            how.command(argv, user, self._limits.max_timeout),
            code=data,
            extension=extension or runtime.file_extension,
            apart=apart,
        )

    def _cell(
        self,
        code: str,
        language: str | None,
        own: RuntimeName,
        how: Surroundings,
        user: GuestUser,
        context: str,
    ) -> tuple[ContextKey, Command]:
        """Return a context and code that runs in it; argv is that of the context's driver."""
        parse_code(code)
        name = parse_context(context)
        if how.tty:
            raise InvalidArgument(
                "Code in a context has no terminal.", hint="Leave out context or tty."
            )
        program = read_program(code, language, own, in_context=True)
        chosen = program.language
        runtime = self._runtimes[chosen.runtime if chosen else own]
        command = how.command(driver_argv(runtime), user, self._limits.max_timeout)
        extension = (chosen.extension if chosen else None) or runtime.file_extension
        cell = replace(command, code=parse_code(program.code), extension=extension, apart=True)
        return ContextKey(name, runtime.name.language, user), cell
