# SPDX-License-Identifier: Apache-2.0
"""The command line, which maps argv to one function. No logic; every command imports its own code.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed with a message that
says what to do, 2 wrong usage, 78 a server's settings are wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from waggle import __version__
from waggle.cli.env.commands import env, exec_, logs, run
from waggle.cli.options import (
    MACHINE,
    SERVER,
    AgentMethod,
    Environment,
    Flag,
    Json,
    Place,
    of_program,
    of_serve,
)
from waggle.cli.storage.commands import image, snapshot, template, token
from waggle.cli.storage.vmm_commands import vmm
from waggle.domain.errors import InvalidArgument, SettingsInvalid, WaggleError
from waggle.domain.programs import GuestUser
from waggle.shipped import document
from waggle.tasks import errors_in

WRONG_SETTINGS = 78
"""EX_CONFIG: a service manager need not start the server again before they are mended."""

app = App(
    name="waggle",
    help="Throw-away Linux machines for AI agents, over MCP.",
    version=f"waggle {__version__}",
    version_flags=["--version"],
    help_epilogue=f"Settings are WAGGLE_* variables: see {document('configuration.md')}.",
)
app.register_install_completion_command(name="--install-completion")  # pyright: ignore[reportUnknownMemberType]
app.command(image)
app.command(env)
app.command(snapshot)
app.command(template)
app.command(token)
app.command(vmm)
app.command(exec_, name="exec", group=SERVER, error_formatter=of_program)
app.command(logs, group=SERVER)
app.command(run, group=SERVER, error_formatter=of_program)


@app.command(group=SERVER, error_formatter=of_serve)
def serve(*, stdio: Flag = False, listen: str | None = None) -> int:
    """Run the server in the foreground until Ctrl-C or SIGTERM.

    Everything but the address is set with WAGGLE_* variables.

    Example: `WAGGLE_MAX_ENVIRONMENTS=5 waggle serve --listen 127.0.0.1:9000`

    :param stdio: Serve the one client that started this, over standard input and output.
    :param listen: Where to listen, as HOST:PORT, instead of WAGGLE_LISTEN_ADDR.
    """
    from waggle.config import load, variable

    wire = None
    if stdio:
        if listen is not None:
            raise InvalidArgument("--stdio and --listen exclude each other.", hint="Leave out one.")
        from waggle.stdio import claim

        wire = claim()  # before anything can print
    try:
        settings = load(listen=listen)  # reports a bad value before the many imports of a server
    except SettingsInvalid as error:
        name = variable("listen_addr")
        if listen is None or name not in error.message:
            _tell([error])
            return WRONG_SETTINGS
        message = error.message.replace(name, "--listen")
        raise InvalidArgument(message, hint=error.hint) from error
    from waggle.app.serving import serve as begin

    begin(settings, wire)
    return 0


@app.command(name="mcp-config", group=SERVER)
def mcp_config(
    client: str | None = None,
    *,
    http: str | None = None,
    token_env: str | None = None,
    write: Flag = False,
    file: Path | None = None,
) -> None:
    """Print or write the configuration of an MCP client; without one, list the clients.

    :param http: The URL of a running server; without it, the client starts one over stdio.
    :param token_env: The variable in which the client finds the bearer token for that server.
    :param write: Merge it into the client's file.
    :param file: The file to merge into, instead of the client's own.
    """
    from waggle.cli.mcp_config import list_clients
    from waggle.cli.mcp_config import mcp_config as begin

    if client is None:
        list_clients()
        return
    begin(client, http=http, token_env=token_env, write=write, file=file)


@app.command(group=MACHINE)
def setup(*, yes: Annotated[Flag, Parameter(alias="-y")] = False, tests: bool = False) -> None:
    """Install what is missing: system packages, the guest kernel and the guest kit.

    :param yes: Do not ask.
    :param tests: Also install what only the tests need.
    """
    from waggle.cli.setup import setup as begin

    begin(yes=yes, tests=tests)


@app.command(group=MACHINE)
def doctor(*, fix: Flag = False, json: Json = False) -> int:
    """Check this machine; exit 1 when environments cannot be created here. It changes nothing.

    :param fix: Print also the commands that repair problems.
    """
    from waggle.cli.doctor import doctor as examine

    return examine(as_json=json, fix=fix)


@app.command(group=SERVER)
def demo() -> None:
    """Start a server and use it as an MCP client would, showing results and times."""
    from waggle.cli.demo import demo as begin

    begin()


@app.command(group=SERVER)
def shell(
    environment: Environment,
    *,
    job: int | None = None,
    user: GuestUser = GuestUser.SANDBOX,
    ssh: Flag = False,
) -> int:
    """Open a shell in an environment, as the user that its programs run as.

    It continues in the environment when the connection breaks, and this attaches to it again.
    Enter ~ . leaves it running.

    :param job: Attach to this job instead: a shell that was left, or a program of `exec -t`.
    :param user: sandbox or root.
    :param ssh: Log in with OpenSSH past the server, on the server's machine.
    """
    from waggle.cli.env.shell import shell as begin

    return begin(environment, job=job, user=user.value, ssh=ssh)


@app.command(group=SERVER)
def cp(
    *places: Place,
    recursive: Annotated[Flag, Parameter(alias="-r")] = False,
    json: Json = False,
) -> int:
    """Copy files into an environment, or out of one: SOURCE... DESTINATION.

    One side is in an environment, as ENVIRONMENT:PATH with its id, the beginning of its id, or its
    name; a relative path begins in its home directory. Exits 1 when something was left out.

    :param places: Files or directories, then the file or directory to copy to.
    :param recursive: Copy directories, with all in them.
    """
    from waggle.cli.cp import cp as begin

    return begin([str(place) for place in places], recursive=recursive, as_json=json)


@app.command(group=SERVER)
def port(
    environment: Environment, port: int, *, share: Flag = False, expires: str | None = None
) -> None:
    """Expose a port of an environment on the server's 127.0.0.1, and print its URL.

    Example: `waggle port box 8000 --share --expires 2h`

    :param port: The TCP port that a program in it listens on.
    :param share: Print a link through the server instead, which works without a token.
    :param expires: How long the link works, such as 90s or 7d, which is the most; one hour unless
        given. Implies --share.
    """
    from waggle.cli.env.environments import expose

    expose(environment, port, share=share, expires=expires)


@app.command(group=MACHINE)
def agent(
    method: AgentMethod = None,
    /,
    *parameters: str,
    socket: Path | None = None,
    output: Path | None = None,
    timeout: str | None = None,
    show: Annotated[Flag, Parameter(name="--list")] = False,
    json: Json = False,
) -> int:
    """Ask the guest agent of a virtual machine, over a socket of QEMU or libvirt.

    Exit codes: 0 done, 1 no agent or refused, 2 wrong usage. Those of exec_command are the
    program's, 124 when it was killed at its timeout, 128 and more for a signal.

    Example: `waggle agent --socket /run/vm/agent.sock file_read path=/etc/hostname`

    :param method: What to ask; without one, list the methods.
    :param parameters: Its parameters as NAME=VALUE: text as it is, data as text or @FILE, mode in
        octal digits, all else as JSON.
    :param socket: The socket of the machine's port.
    :param output: A file for what file_read reads, instead of standard output.
    :param timeout: How long to wait for the answer, such as 90s or 5m.
    :param show: List the methods.
    """
    from waggle.cli.agent import agent as begin
    from waggle.cli.agent import list_methods

    if method is None or show:
        list_methods(as_json=json)
        return 0
    return begin(method, parameters, socket=socket, output=output, timeout=timeout, as_json=json)


@app.command(group=MACHINE)
def version() -> None:
    """Print the version."""
    app.version_print()


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, this process's own unless `words` are given, and exit."""
    try:
        code = app() if words is None else app(words)
    except (WaggleError, OSError, BaseExceptionGroup) as error:
        shown = refusals(error)
        if not shown:
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            raise
        _tell(shown)
        sys.exit(2 if isinstance(shown[0], InvalidArgument) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(shown: Sequence[WaggleError]) -> None:
    for refusal in shown:
        hint = f"  {refusal.hint}\n" if refusal.hint else ""
        sys.stderr.write(f"waggle: {refusal.message}\n{hint}")


def refusals(error: BaseException) -> list[WaggleError]:
    """Return the errors of an exception group to show to the user.

    Empty if the group also holds other errors. A full disk counts as an error to show, wherever a
    command meets it.
    """
    refused = [_refusal(inner) for inner in errors_in(error)]
    return [refusal for refusal in refused if refusal] if all(refused) else []


def _refusal(error: BaseException) -> WaggleError | None:
    if isinstance(error, OSError):
        from waggle.infra.shared.disk_room import full, is_full

        where = error.filename2 or error.filename or "the directories of waggle"
        return full(error, str(where)) if is_full(error) else None
    return error if isinstance(error, WaggleError) else None
