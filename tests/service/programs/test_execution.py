# SPDX-License-Identifier: Apache-2.0
"""Running code and installing packages: what reaches the guest and what is refused first."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from tests.service.executing import LIMITS, RUNTIMES
from tests.service.world import LONG, OWNER, World, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import (
    GuestLost,
    InvalidArgument,
    InvalidRuntime,
    NotFound,
    NotRunning,
    TooLarge,
    WaggleError,
)
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs import (
    HOME,
    MAX_CODE_BYTES,
    MAX_STDIN_BYTES,
    Command,
    ExecutionResult,
    GuestUser,
    Streams,
)
from waggle.domain.programs.job import JobKind, JobState, JobView
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.surroundings import Surroundings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


class Calls:
    """Calls that wait for the end of what they started, like those of a client."""

    def __init__(self, service: ExecutionService) -> None:
        self.service = service

    async def execute(
        self, environment: str, code: str, *, owner: str, language: str | None = None, **how: Any
    ) -> JobView:
        job = await self.service.execute(
            environment, code, owner=owner, language=language, how=Surroundings(**how)
        )
        return await job.attend(LONG)

    async def install(self, environment: str, packages: str | list[str], *, owner: str) -> JobView:
        return await (await self.service.install(environment, packages, owner=owner)).attend(LONG)

    async def run_command(
        self, environment: str, command: str | list[str], **options: Any
    ) -> JobView:
        job = await self.service.run_command(environment, command, owner=OWNER, **options)
        return await job.attend(LONG)


@pytest.fixture
def executions(here: World) -> Calls:
    return Calls(ExecutionService(here.service, here.jobs(), RUNTIMES, LIMITS))


async def test_code_becomes_one_command_with_the_presets(here: World, executions: Calls) -> None:
    environment = await here.created()
    result = await executions.execute(environment.id, "flood 3\nexit 3", owner=OWNER)
    assert (result.stdout.text(), result.exit_code) == ("xxx", 3)
    (command,) = here.host.only.commands
    assert (command.argv, command.apart) == (("python3", "{runner.py}", "{file}"), True)
    assert command.code == b"flood 3\nexit 3"
    assert (command.extension, command.timeout) == (".py", 300)
    assert (command.cwd, command.env, command.stdin) == (None, {}, b"")
    assert command.user is GuestUser.SANDBOX


async def test_all_options_of_the_caller_reach_the_guest(here: World, executions: Calls) -> None:
    environment = await here.created()
    result = await executions.execute(
        environment.id,
        "cwd\nenv KEY\nstdin",
        owner=OWNER,
        language="node",
        timeout_seconds=300,
        cwd="work",
        env={"KEY": "välue; $(rm)"},
        stdin="über",
    )
    assert result.stdout.text() == f"{HOME}/work\nvälue; $(rm)\nüber"
    (command,) = here.host.only.commands
    assert command.argv == ("node", "-r", "{runner.js}", "{file}")
    assert (command.extension, command.timeout) == (".js", 300)


@pytest.mark.parametrize(
    "code, language, argv, extension, sent",
    [
        ("```python\nflood 1\n```", None, "python3", ".py", b"flood 1\n"),
        ("```bash\nflood 1\n```", None, "bash", ".sh", b"flood 1\n"),
        ("flood 1", "py", "python3", ".py", b"flood 1"),
        ("flood 1", "javascript", "node", ".js", b"flood 1"),
        ("flood 1", "ts", "node", ".ts", b"flood 1"),
        ("flood 1\r\nflood 2\r\n", "sh", "bash", ".sh", b"flood 1\nflood 2\n"),
        ("pip install x", None, "bash", ".sh", b"pip install x"),
    ],
)
async def test_the_language_is_taken_from_the_code_or_its_name(
    here: World,
    executions: Calls,
    code: str,
    language: str | None,
    argv: str,
    extension: str,
    sent: bytes,
) -> None:
    environment = await here.created()
    await executions.execute(environment.id, code, owner=OWNER, language=language)
    (command,) = here.host.only.commands
    assert (command.argv[0], command.extension, command.code) == (argv, extension, sent)


async def test_node_compiles_syntax_beyond_type_annotations(here: World, executions: Calls) -> None:
    environment = await here.created()
    for code in ("const a: number = 1", "enum A { x }"):
        await executions.execute(environment.id, code, owner=OWNER, language="ts")
    typed, enum = here.host.only.commands
    assert typed.argv == ("node", "-r", "{runner.js}", "{file}")
    assert "--experimental-transform-types" in enum.argv


async def test_a_tilde_is_the_home_of_the_user(here: World, executions: Calls) -> None:
    environment = await here.created()
    here.host.only.user_home = "/home/node"
    ran = await executions.execute(environment.id, "cwd", owner=OWNER, cwd="~/app")
    assert ran.stdout.text() == "/home/node/app\n"
    await executions.run_command(
        environment.id, ["x"], user=GuestUser.ROOT, how=Surroundings(cwd="~")
    )
    assert here.host.only.commands[-1].cwd == "/root/"


async def test_numbers_in_env_become_text(here: World, executions: Calls) -> None:
    environment = await here.created()
    ran = await executions.execute(environment.id, "env PORT", owner=OWNER, env={"PORT": 8080})
    assert ran.stdout.text() == "8080\n"
    ran = await executions.execute(environment.id, "env PORT", owner=OWNER, env=["PORT=1"])
    assert ran.stdout.text() == "1\n"


async def test_a_failing_program_and_a_timeout_are_results(here: World, executions: Calls) -> None:
    environment = await here.created()
    failed = await executions.execute(environment.id, "nonsense", owner=OWNER)
    assert failed.exit_code == 1
    timed_out = await executions.execute(environment.id, "echo so far\ntimeout", owner=OWNER)
    assert (timed_out.state, timed_out.stdout.text()) == (JobState.TIMED_OUT, "so far\n")
    assert here.get(environment.id).active_calls == 0


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"code": ""}, InvalidArgument),
        ({"code": " \n\t"}, InvalidArgument),
        ({"code": "a\0b"}, InvalidArgument),
        ({"code": "\ud800"}, InvalidArgument),
        ({"code": "x" * (MAX_CODE_BYTES + 1)}, TooLarge),
        ({"language": "perl"}, InvalidRuntime),
        ({"timeout_seconds": 0}, InvalidArgument),
        ({"timeout_seconds": -1}, InvalidArgument),
        ({"timeout_seconds": 300.1}, InvalidArgument),
        ({"timeout_seconds": float("nan")}, InvalidArgument),
        ({"timeout_seconds": float("inf")}, InvalidArgument),
        ({"timeout_seconds": 10**400}, InvalidArgument),
        ({"cwd": ""}, InvalidArgument),
        ({"cwd": "a\0"}, InvalidArgument),
        ({"env": {"": "x"}}, InvalidArgument),
        ({"env": {"A=B": "x"}}, InvalidArgument),
        ({"env": {"A": "x\0"}}, InvalidArgument),
        ({"env": {"A": "\udfff"}}, InvalidArgument),
        ({"env": {"A": "x" * 130_000}}, TooLarge),
        ({"stdin": "\ud800"}, InvalidArgument),
        ({"stdin": "x" * (MAX_STDIN_BYTES + 1)}, TooLarge),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_invalid_arguments_are_refused_before_the_guest_is_asked(
    here: World,
    executions: Calls,
    arguments: dict[str, object],
    error: type[WaggleError],
) -> None:
    environment = await here.created()
    wanted: dict[str, Any] = {"code": "echo", "owner": OWNER, **arguments}
    with pytest.raises(error):
        await executions.execute(environment.id, **wanted)
    assert here.host.only.commands == []
    assert here.get(environment.id).active_calls == 0


async def test_an_execution_counts_as_use_and_its_cancellation_reaches_the_guest(
    here: World, executions: Calls
) -> None:
    environment = await here.created()
    job = here.start(executions.execute(environment.id, "hang", owner=OWNER))
    guest = here.host.only
    await guest.started.wait()
    assert here.get(environment.id).running_jobs == 1
    here.clock.advance(days=1)
    assert not await here.service.retire(environment.id)
    job.cancel()
    await job.wait()
    assert len(guest.cancelled) == 1
    after = here.get(environment.id)
    assert (after.running_jobs, after.last_used_at) == (0, here.clock.now)


async def test_a_machine_that_dies_during_a_call_fails_the_call_with_its_cause(
    here: World, executions: Calls
) -> None:
    environment = await here.created()
    with pytest.raises(GuestLost, match="killed by signal 9"):
        await executions.execute(environment.id, "die", owner=OWNER)
    await settle()
    assert here.get(environment.id).state is State.ERROR
    with pytest.raises(NotRunning, match="killed by signal 9"):
        await executions.execute(environment.id, "echo", owner=OWNER)


async def test_executions_in_one_environment_run_in_parallel(
    here: World, executions: Calls
) -> None:
    environment = await here.created()
    hanging = here.start(executions.execute(environment.id, "hang", owner=OWNER))
    await here.host.only.started.wait()
    with anyio.fail_after(2):
        assert (await executions.execute(environment.id, "echo", owner=OWNER)).exit_code == 0
    here.host.only.release.set()
    assert (await hanging.result()).exit_code == 0


async def test_code_cannot_run_in_another_owners_environment(
    here: World, executions: Calls
) -> None:
    environment = await here.created()
    with pytest.raises(NotFound):
        await executions.execute(environment.id, "echo", owner="mallory")
    with pytest.raises(NotFound):
        await executions.install(environment.id, "numpy", owner="mallory")
    assert here.host.only.commands == []


@pytest.mark.parametrize(
    "runtime, packages, argv, user",
    [
        (
            RuntimeName.PYTHON,
            "numpy==2.* uvicorn[standard]",
            ("pip", "install", "numpy==2.*", "uvicorn[standard]"),
            GuestUser.SANDBOX,
        ),
        (
            RuntimeName.NODE,
            ["@types/node"],
            ("npm", "install", "@types/node"),
            GuestUser.SANDBOX,
        ),
        (RuntimeName.SHELL, "jq", ("apt-get", "install", "-y", "jq"), GuestUser.ROOT),
    ],
)
async def test_packages_go_to_the_installer_of_the_runtime(
    here: World,
    executions: Calls,
    runtime: RuntimeName,
    packages: str | list[str],
    argv: tuple[str, ...],
    user: GuestUser,
) -> None:
    environment = await here.created(CreateRequest(runtime))
    await executions.install(environment.id, packages, owner=OWNER)
    (command,) = here.host.only.commands
    assert (command.argv, command.user, command.code) == (argv, user, None)
    assert command.timeout == 600


@pytest.mark.parametrize(
    "packages, argv, user",
    [
        ("pip install -q numpy", ("pip", "install", "numpy"), GuestUser.SANDBOX),
        ("pip install -U numpy", ("pip", "install", "--upgrade", "numpy"), GuestUser.SANDBOX),
        ("npm i left-pad", ("npm", "install", "left-pad"), GuestUser.SANDBOX),
        ("sudo apt install -y jq", ("apt-get", "install", "-y", "jq"), GuestUser.ROOT),
    ],
)
async def test_a_command_line_selects_the_installer_it_names(
    here: World, executions: Calls, packages: str, argv: tuple[str, ...], user: GuestUser
) -> None:
    environment = await here.created()
    await executions.install(environment.id, packages, owner=OWNER)
    (command,) = here.host.only.commands
    assert (command.argv, command.user) == (argv, user)


@pytest.mark.parametrize("packages", ["", [], "--index-url http://x numpy", ["numpy", "-r"]])
async def test_a_bad_package_list_installs_nothing(
    here: World, executions: Calls, packages: str | list[str]
) -> None:
    environment = await here.created()
    with pytest.raises(InvalidArgument):
        await executions.install(environment.id, packages, owner=OWNER)
    assert here.host.only.commands == []
    assert here.get(environment.id).active_calls == 0


async def test_nothing_is_installed_without_a_network(here: World, executions: Calls) -> None:
    offline = CreateRequest(RuntimeName.PYTHON, network=NO_NETWORK)
    environment = await here.created(offline)
    with pytest.raises(InvalidArgument, match="no network") as refused:
        await executions.install(environment.id, "numpy", owner=OWNER)
    assert "public" in refused.value.hint
    assert here.host.only.commands == []
    assert (await executions.execute(environment.id, "echo", owner=OWNER)).exit_code == 0


async def test_a_line_runs_in_a_shell_and_a_list_does_not(here: World, executions: Calls) -> None:
    environment = await here.created()
    line = await executions.run_command(environment.id, "echo $HOME && false", user=GuestUser.ROOT)
    assert (line.kind, line.summary) == (JobKind.COMMAND, "echo $HOME && false")
    await executions.run_command(environment.id, ["ls", "-l", "a b; $(rm)"])
    first, second = here.host.only.commands
    assert first.argv == ("{shell}", "-c", "echo $HOME && false")
    assert first.user is GuestUser.ROOT
    assert (second.argv, second.user) == (("ls", "-l", "a b; $(rm)"), GuestUser.SANDBOX)
    assert first.code is second.code is None


async def test_a_shell_line_loses_its_carriage_returns(here: World, executions: Calls) -> None:
    environment = await here.created()
    await executions.run_command(environment.id, "cd x\r\nls\r\n")
    assert here.host.only.commands[0].argv[-1] == "cd x\nls\n"


@pytest.mark.parametrize("command", ["", "  \n", [], [""], [" ", "x"], ["a\0b"], "a\0b"])
async def test_an_empty_command_is_refused(
    here: World, executions: Calls, command: str | list[str]
) -> None:
    environment = await here.created()
    with pytest.raises(InvalidArgument):
        await executions.run_command(environment.id, command)
    assert here.host.only.commands == []


async def test_a_running_installation_is_joined_and_others_queue_behind_it(
    here: World, executions: Calls
) -> None:
    environment = (await here.created(CreateRequest(RuntimeName.PYTHON))).id
    guest = here.host.only
    hold = anyio.Event()
    begun: list[tuple[str, ...]] = []

    async def pip(command: Command, into: Streams) -> ExecutionResult:
        begun.append(command.argv[2:])
        if len(begun) == 1:
            await hold.wait()
        return await guest.interpret(command, into)

    guest.programs["pip"] = pip
    install = executions.service.install
    first = await install(environment, "six", owner=OWNER)
    joined = await install(environment, ["six"], owner=OWNER)
    other = await install(environment, "attrs", owner=OWNER)
    third = await install(environment, "idna", owner=OWNER)
    assert joined is first
    await executions.run_command(environment, ["ls"])  # does not wait for an installation
    assert begun == [("six",)]
    await other.kill()
    hold.set()
    await third.wait(LONG)
    assert begun == [("six",), ("idna",)]
    assert [job.view().exit_code for job in (first, other, third)] == [0, None, 0]
    assert (await install(environment, "six", owner=OWNER)).number == 5
