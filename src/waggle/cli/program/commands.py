# SPDX-License-Identifier: Apache-2.0
"""The command lines of `waggle exec` and `waggle run`, which `main` includes. No logic."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from waggle.cli.options import Place, Repeated
from waggle.domain.machine import NetworkPolicy
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

File = Annotated[Place, Parameter(allow_leading_hyphen=True)]
Input = Annotated[bool, Parameter(name=("--stdin", "-i"), negative="")]
Keep = Annotated[bool, Parameter(negative="")]


def exec_(
    environment: str,
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
    environment
        Its id, the beginning of its id, or its name.
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
    from waggle.cli.program.executing import How, execute

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
    from waggle.cli.program import running

    wanted = running.Wanted(
        " ".join(packages).split(),
        network and network.value,
        image,
        keep=keep,
        stdin=stdin,
    )
    return running.run(str(file), words, runtime, wanted)
