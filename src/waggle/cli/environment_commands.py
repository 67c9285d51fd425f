# SPDX-License-Identifier: Apache-2.0
"""The command lines of `waggle env|exec|run`, which use the running server. No logic, as in `main`.

`main` includes them. Every command imports its own code.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Group, Parameter

from waggle.cli.options import Environment, Json, Place, Repeated
from waggle.domain.machine import NetworkPolicy
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

env = App(name="env", help="The environments of the running server.")
LOOK, MOMENTS = (
    Group("Make, look and remove", sort_key=1),
    Group("Pause, copy, go back", sort_key=2),
)


@env.command(name="new", group=LOOK)
def env_new(  # noqa: PLR0913 - one for each option
    runtime: RuntimeName | None = None,
    *,
    name: str | None = None,
    image: str | None = None,
    timeout_minutes: int | None = None,
    network: NetworkPolicy | None = None,
    snapshot: str | None = None,
    cpus: int | None = None,
    memory_mb: int | None = None,
    disk_mb: int | None = None,
    env: Repeated = (),
    package: Repeated = (),
    json: Json = False,
) -> None:
    """Create an environment, and print its id.

    Example: `E=$(waggle env new python) && waggle exec $E -- python3 --version`

    Parameters
    ----------
    runtime
        What it is for; python unless you say.
    name
        What to call it.
    image
        An image instead of the runtime's own.
    timeout_minutes
        How long it is kept without use; the server has a default.
    network
        What it may reach; the server has a default.
    snapshot
        A snapshot to go on from, instead of a runtime: its id, name or the start of its id.
    cpus
        Virtual processors, within the server's limit.
    memory_mb
        Memory in MiB, within the server's limit.
    disk_mb
        Writable disk in MiB, within the server's limit.
    env
        A variable for all its programs, as NAME=value; once for each.
    package
        A package to install first; once for each.
    """
    from waggle.cli.env import new as run

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
    }
    run({word: value for word, value in given.items() if value is not None}, as_json=json)


@env.command(name="ls", group=LOOK)
def env_ls(*, json: Json = False) -> None:
    """List the environments of the running server."""
    from waggle.cli.env import ls as run

    run(as_json=json)


@env.command(name="rm", group=LOOK)
def env_rm(*environments: str) -> None:
    """Destroy environments, each given by id, beginning of id, or name.

    One that cannot be destroyed does not keep the others; the exit code is 1 then.
    """
    from waggle.cli.env import rm as run

    run(environments)


@env.command(name="pause", group=MOMENTS)
def env_pause(environment: Environment, *, to_disk: bool = False) -> None:
    """Have an environment stand still until it is used again.

    Parameters
    ----------
    to_disk
        Keep its state on the disk and free its memory.
    """
    from waggle.cli.env import pause as run

    run(environment, to_disk=to_disk)


@env.command(name="resume", group=MOMENTS)
def env_resume(environment: Environment) -> None:
    """Have a paused environment go on."""
    from waggle.cli.env import resume as run

    run(environment)


@env.command(name="snapshot", group=MOMENTS)
def env_snapshot(environment: Environment, *, name: str | None = None, json: Json = False) -> None:
    """Keep what an environment is now, memory and disk, and print the snapshot's id.

    Parameters
    ----------
    name
        What to call the snapshot.
    """
    from waggle.cli.env import snapshot as run

    run(environment, name, as_json=json)


@env.command(name="fork", group=MOMENTS)
def env_fork(environment: Environment, *, count: int = 1, json: Json = False) -> None:
    """Make copies of an environment as it is now, and print their ids.

    Parameters
    ----------
    count
        How many.
    """
    from waggle.cli.env import fork as run

    run(environment, count, as_json=json)


@env.command(name="rollback", group=MOMENTS)
def env_rollback(environment: Environment, snapshot: str) -> None:
    """Take an environment back to a snapshot of itself; what came since is lost.

    Parameters
    ----------
    snapshot
        Its id, the beginning of its id, or its name.
    """
    from waggle.cli.env import rollback as run

    run(environment, snapshot)


File = Annotated[Place, Parameter(allow_leading_hyphen=True)]
Input = Annotated[bool, Parameter(name=("--stdin", "-i"), negative="")]
Keep = Annotated[bool, Parameter(negative="")]


def exec_(
    environment: Environment,
    /,
    *command: str,
    user: GuestUser = GuestUser.SANDBOX,
    cwd: str | None = None,
    env: Repeated = (),
    timeout_seconds: float | None = None,
    stdin: Input = False,
) -> int:
    """Run a program in an environment, as if it ran here: waggle exec ENVIRONMENT -- PROGRAM ...

    Its output comes while it runs, and its exit code is this command's; 124 is a timeout, and 128
    and more a signal. It gets this command's standard input if that is a file, and with -i also if
    it is a pipe. Ctrl-C kills it. What stands after -- is the program's, also its options;
    no shell is involved.

    Examples: `waggle exec box -- python3 -c 'print(6 * 7)'`,
    `waggle exec box -- sh -c 'ls | wc -l'`, `waggle exec box -- wc -l < data.csv`,
    `cat data.csv | waggle exec -i box -- wc -l`

    Parameters
    ----------
    command
        The program and its arguments.
    user
        sandbox or root.
    cwd
        The directory to run in; a relative path begins at the home directory.
    env
        A variable to set, as NAME=VALUE; may be given several times.
    timeout_seconds
        Kill it after so many seconds.
    stdin
        Pass standard input on also if it is a pipe, which is read to its end.
    """
    from waggle.cli.exec import How, execute

    return execute(environment, command, How(user.value, cwd, env, timeout_seconds, stdin))


def run(
    file: File,
    /,
    *words: str,
    runtime: RuntimeName | None = None,
    packages: Repeated = (),
    network: NetworkPolicy | None = None,
    image: str | None = None,
    keep: Keep = False,
    stdin: Input = False,
) -> int:
    """Run a program of this machine in a new environment, which is destroyed afterwards.

    The one file is copied there. As with exec, output comes while it runs, and the exit code is the
    program's. Options of the program stand after --.

    Examples: `waggle run hello.py`, `waggle run plot.py --packages numpy -- --size 3`,
    `echo 'print(6 * 7)' | waggle run -`

    Parameters
    ----------
    file
        A .py, .js, .mjs, .cjs, .sh or .bash file, or - for standard input.
    words
        What the program gets as its arguments.
    runtime
        What runs it, where the file's name does not say; python for standard input.
    packages
        What to install first: 'numpy pandas', or one and the option again.
    network
        What it may reach; the server has a default.
    image
        An image instead of the runtime's own.
    keep
        Keep the environment, and tell its id on stderr.
    stdin
        Pass standard input on also if it is a pipe, which is read to its end.
    """
    from waggle.cli.run import Wanted
    from waggle.cli.run import run as begin

    wanted = Wanted(
        " ".join(packages).split(),
        network and network.value,
        image,
        keep=keep,
        stdin=stdin,
    )
    return begin(str(file), words, runtime, wanted)
