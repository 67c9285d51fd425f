# SPDX-License-Identifier: Apache-2.0
"""The command lines of `waggle env|exec|run`, which use the running server. No logic, as in `main`.

`main` includes them. Every command imports its own code.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Group, Parameter

from waggle.cli.options import Environment, Flag, Json, NetworkOption, Place, Repeated
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

env = App(name="env", help="The environments of the running server.")
BASIC = Group("Create, list and remove", sort_key=1)
FREEZING = Group("Pause, copy and roll back", sort_key=2)


@env.command(name="new", group=BASIC)
def env_new(  # noqa: PLR0913 - one for each option
    runtime: RuntimeName | None = None,
    *,
    name: str | None = None,
    image: str | None = None,
    timeout_minutes: int | None = None,
    network: NetworkOption = None,
    snapshot: str | None = None,
    cpus: int | None = None,
    memory_mb: int | None = None,
    disk_mb: int | None = None,
    env: Repeated = (),
    package: Repeated = (),
    secret: Repeated = (),
    snapshots: Flag = False,
    json: Json = False,
) -> None:
    """Create an environment, and print its id.

    Example: `E=$(waggle env new python) && waggle exec $E -- python3 --version`

    :param runtime: The language or shell; python by default.
    :param name: Its name.
    :param image: An image instead of the runtime's own.
    :param timeout_minutes: How long it is kept without use; by default as the server is set.
    :param network: What it may reach: none, public, ask, or rules such as
        'example.org, *.example.net:443, @packages'; by default as the server is set.
    :param snapshot: A snapshot to resume, instead of a runtime: its id, its beginning, or a name.
    :param cpus: Virtual processors, within the server's limit.
    :param memory_mb: Memory in MiB, within the server's limit.
    :param disk_mb: Writable disk in MiB, within the server's limit.
    :param env: A variable for all its programs, as NAME=VALUE; may be repeated.
    :param package: A package to install first; may be repeated.
    :param secret: A secret of the operator that its programs may use; may be repeated.
    :param snapshots: Have it run by a hypervisor that can snapshot, fork and pause it to disk.
    """
    from waggle.cli.env.environments import new as run

    given = {
        "runtime": runtime or (None if snapshot else RuntimeName.PYTHON),
        "name": name,
        "image": image,
        "timeout_minutes": timeout_minutes,
        "network": network,
        "snapshot": snapshot,
        "cpus": cpus,
        "memory_mb": memory_mb,
        "disk_mb": disk_mb,
        "env": [*env] or None,
        "packages": [*package] or None,
        "secrets": [*secret] or None,
        "snapshots": snapshots or None,
    }
    run({word: value for word, value in given.items() if value is not None}, as_json=json)


@env.command(name="ls", group=BASIC)
def env_ls(*, json: Json = False) -> None:
    """List the environments of the running server."""
    from waggle.cli.env.environments import ls as run

    run(as_json=json)


@env.command(name="rm", group=BASIC)
def env_rm(*environments: str, grace: str | None = None) -> None:
    """Destroy environments, each given by id, beginning of id, or name.

    One that cannot be destroyed does not keep the others; the exit code is 1 then.

    :param grace: How long programs may take to end after a SIGTERM, as 10s; at most 30s.
    """
    from waggle.cli.env.environments import rm as run

    run(environments, grace)


@env.command(name="restart", group=BASIC)
def env_restart(environment: Environment, *, force: Flag = False, json: Json = False) -> None:
    """Boot a broken environment again with its files, and print its id.

    Programs, jobs and contexts end; they have 5 s for that.

    :param force: Give programs no time to end.
    """
    from waggle.cli.env.environments import restart as run

    run(environment, force=force, as_json=json)


@env.command(name="network", group=BASIC)
def env_network(
    environment: Environment,
    value: NetworkOption = None,
    /,
    *,
    allow: Repeated = (),
    deny: Repeated = (),
    log: Flag = False,
    json: Json = False,
) -> None:
    """Show what an environment reaches, or change it at once, or show its last connections.

    Examples: `waggle env network box`, `waggle env network box "@packages, example.org"`,
    `waggle env network box --allow "*.example.org" --deny ads.example.org`

    :param value: Its new network: none, public, ask, or rules.
    :param allow: A rule to add; may be repeated.
    :param deny: A destination that it never reaches; may be repeated.
    :param log: Show the last connections, allowed and refused ones, after the change if any.
    """
    from waggle.cli.env.network_log import network_log
    from waggle.cli.env.networks import network as run

    if not log or value or allow or deny:
        run(environment, value, allow, deny, as_json=json)
    if log:
        network_log(environment, as_json=json)


@env.command(name="pause", group=FREEZING)
def env_pause(environment: Environment, *, to_disk: bool = False) -> None:
    """Pause an environment until it is used again.

    :param to_disk: Keep its state on the disk and free its memory.
    """
    from waggle.cli.env.environments import pause as run

    run(environment, to_disk=to_disk)


@env.command(name="resume", group=FREEZING)
def env_resume(environment: Environment) -> None:
    """Resume a paused environment."""
    from waggle.cli.env.environments import resume as run

    run(environment)


@env.command(name="snapshot", group=FREEZING)
def env_snapshot(environment: Environment, *, name: str | None = None, json: Json = False) -> None:
    """Take a snapshot of an environment, memory and disk, and print its id.

    :param name: The name of the snapshot.
    """
    from waggle.cli.env.environments import snapshot as run

    run(environment, name, as_json=json)


@env.command(name="fork", group=FREEZING)
def env_fork(environment: Environment, *, count: int = 1, json: Json = False) -> None:
    """Copy a running environment, and print the ids of the copies.

    :param count: How many copies.
    """
    from waggle.cli.env.environments import fork as run

    run(environment, count, as_json=json)


@env.command(name="rollback", group=FREEZING)
def env_rollback(environment: Environment, snapshot: str) -> None:
    """Return an environment to a snapshot of itself; all changes since then are lost.

    :param snapshot: Its id, the beginning of its id, or its name.
    """
    from waggle.cli.env.environments import rollback as run

    run(environment, snapshot)


File = Annotated[Place, Parameter(allow_leading_hyphen=True)]
Input = Annotated[Flag, Parameter(alias="-i")]


def exec_(
    environment: Environment,
    /,
    *command: str,
    user: GuestUser = GuestUser.SANDBOX,
    cwd: str | None = None,
    env: Repeated = (),
    timeout_seconds: float | None = None,
    stdin: Input = False,
    tty: Annotated[Flag, Parameter(alias="-t")] = False,
) -> int:
    """Run a program in an environment, as if it ran here: waggle exec ENVIRONMENT -- PROGRAM ...

    Its output comes while it runs, and its exit code is this command's; 124 is a timeout, and 128
    and more a signal. It gets this command's standard input if that is a file, and with -i also if
    it is a pipe. Ctrl-C kills it. All words after -- are the program's, options included; no shell
    is involved.

    Examples: `waggle exec box -- python3 -c 'print(6 * 7)'`,
    `waggle exec box -- sh -c 'ls | wc -l'`, `waggle exec box -- wc -l < data.csv`,
    `cat data.csv | waggle exec -i box -- wc -l`

    :param command: The program and its arguments.
    :param user: sandbox or root.
    :param cwd: The directory to run in; a relative path begins at the home directory.
    :param env: A variable to set, as NAME=VALUE; may be repeated.
    :param timeout_seconds: Kill it after this many seconds.
    :param stdin: Pass standard input on also if it is a pipe, which is read to its end.
    :param tty: Give it this terminal. Ctrl-C goes to the program, and Enter ~ . leaves it running.
    """
    from waggle.cli.env.exec import How, execute

    how = How(user.value, cwd, env, timeout_seconds, stdin)
    if tty:
        from waggle.cli.env.shell import execute as execute_here

        return execute_here(environment, command, how)
    return execute(environment, command, how)


def logs(
    environment: Environment,
    job: int,
    /,
    *,
    follow: Annotated[Flag, Parameter(alias="-f")] = False,
    stderr: Flag = False,
) -> int:
    """Print what a job has printed: waggle logs ENVIRONMENT JOB.

    Exits 1 when a part was not kept.

    :param job: Its number; each program of an environment is a job.
    :param follow: Go on until it ends.
    :param stderr: Its standard error instead of its standard output.
    """
    from waggle.cli.env.logs import logs as begin

    return begin(environment, job, follow=follow, stderr=stderr)


def run(
    file: File,
    /,
    *words: str,
    runtime: RuntimeName | None = None,
    packages: Repeated = (),
    network: NetworkOption = None,
    secret: Repeated = (),
    image: str | None = None,
    keep: Flag = False,
    stdin: Input = False,
) -> int:
    """Run a program of this machine in a new environment, which is destroyed afterwards.

    The one file is copied there. As with exec, output comes while it runs, and the exit code is the
    program's. Write the program's own options after --.

    Examples: `waggle run hello.py`, `waggle run plot.py --packages numpy -- --size 3`,
    `waggle run issues.py --secret github --network api.git.example`,
    `echo 'print(6 * 7)' | waggle run -`

    :param file: A .py, .js, .mjs, .cjs, .sh or .bash file, or - for standard input.
    :param words: The program's arguments.
    :param runtime: The language, if the file's name does not show it; python for standard input.
    :param packages: Packages to install first: 'numpy pandas', or one, and the option again.
    :param network: What it may reach: none, public, ask, or rules such as
        'example.org, *.example.net:443, @packages'; by default as the server is set.
    :param secret: A secret of the operator that it may use; may be repeated.
    :param image: An image instead of the runtime's own.
    :param keep: Keep the environment, and print its id on stderr.
    :param stdin: Pass standard input on also if it is a pipe, which is read to its end.
    """
    from waggle.cli.env.run import Wanted
    from waggle.cli.env.run import run as begin

    wanted = Wanted(" ".join(packages).split(), network, secret, image, keep=keep, stdin=stdin)
    return begin(str(file), words, runtime, wanted)
