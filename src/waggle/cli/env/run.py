# SPDX-License-Identifier: Apache-2.0
"""`waggle run`: run a program of this host in a new environment, which is destroyed afterwards.

A client of the running server: it creates, installs, copies, runs and destroys with its tools.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
from mcp import Client

from waggle.app.values import EXTENSIONS, runtimes
from waggle.cli.advice import of_run
from waggle.cli.asking import person
from waggle.cli.client import CallRefused, call, call_reporting, connected_by
from waggle.cli.env.exec import attached, read_input, report, standard_input
from waggle.cli.env.program import Ended
from waggle.cli.progress import answered, interruptible, say, waiting
from waggle.config import load
from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.files import MAX_FILE_BYTES
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import RuntimeName

STDIN = "-"
_DESTROY_SECONDS = 60.0
_SUFFIXES = {
    ".py": RuntimeName.PYTHON,
    ".js": RuntimeName.NODE,
    ".mjs": RuntimeName.NODE,
    ".cjs": RuntimeName.NODE,
    ".sh": RuntimeName.SHELL,
    ".bash": RuntimeName.SHELL,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The environment to run in."""

    packages: Sequence[str] = field(default=())
    network: str | None = None
    secrets: Sequence[str] = field(default=())
    image: str | None = None
    keep: bool = False
    stdin: bool = False

    def arguments(self, runtime: RuntimeName) -> dict[str, Any]:
        """Return the arguments of the tool create_environment."""
        given = {"network": self.network, "image": self.image, "secrets": [*self.secrets]}
        return {"runtime": runtime.value, **{name: word for name, word in given.items() if word}}


@dataclass(frozen=True, slots=True)
class Program:
    """The program to run: the bytes of the file, its path in the environment, arguments, input."""

    runtime: RuntimeName
    path: str
    data: bytes
    arguments: Sequence[str]
    stdin: str


def run(file: str, arguments: Sequence[str], runtime: RuntimeName | None, wanted: Wanted) -> int:
    """Run the file, or the program on standard input, and return its exit code.

    Raises InvalidArgument, TooLarge and the server's refusals, and KeyboardInterrupt at a signal.
    The environment is destroyed in all cases, unless it is to be kept.
    """
    chosen = runtime or runtime_of(file)
    data, stdin = _read(file, pipe=wanted.stdin)
    program = Program(chosen, _path(file, chosen), data, arguments, stdin)
    return report(anyio.run(_connect_and_run, program, wanted))


def runtime_of(file: str) -> RuntimeName:
    """Return the runtime of a file, by its extension. Raises InvalidArgument."""
    if file == STDIN:
        return RuntimeName.PYTHON
    if file.startswith("-"):
        raise InvalidArgument(
            f"There is no option {file!r}.",
            hint="'waggle run --help' shows them; a file of this name is ./-NAME.",
        )
    found = _SUFFIXES.get(PurePosixPath(file).suffix.lower())
    if found is None:
        raise InvalidArgument(
            f"The name {file!r} shows no runtime; known endings are {', '.join(_SUFFIXES)}.",
            hint=f"Name it with --runtime: {', '.join(RuntimeName)}.",
        )
    return found


def _path(file: str, runtime: RuntimeName) -> str:
    """Return the program's path in the environment, with the file's name if it is printable."""
    name = f"program{EXTENSIONS[runtime]}" if file == STDIN else Path(file).name
    return f"{HOME}/{name if name.isprintable() else f'program{Path(name).suffix}'}"


def _read(file: str, *, pipe: bool) -> tuple[bytes, str]:
    """Read the program and its standard input. Raises InvalidArgument and TooLarge."""
    if file == STDIN:
        if sys.stdin and sys.stdin.isatty():
            say("Type the program; Ctrl-D ends it.")
        return read_input(MAX_FILE_BYTES), ""
    try:
        if Path(file).stat().st_size > MAX_FILE_BYTES:
            raise TooLarge(f"{file} is over {MAX_FILE_BYTES} bytes.", hint=_BY_HAND)
        return Path(file).read_bytes(), standard_input(pipe=pipe)
    except OSError as error:
        raise InvalidArgument(
            f"{file} cannot be read: {error.strerror}.", hint="Name a file of this machine."
        ) from error


_BY_HAND = "Use 'waggle env new', 'waggle cp' and 'waggle exec'."


async def _connect_and_run(program: Program, wanted: Wanted) -> Ended:
    with person() as somebody:
        async with connected_by(load(), somebody) as client:
            return await interruptible(partial(_run, client, program, wanted))


async def _run(client: Client, program: Program, wanted: Wanted) -> Ended:
    interpreter = runtimes(load())[program.runtime].exec_argv(program.path)
    created = _environment(client, wanted.arguments(program.runtime), keep=wanted.keep)
    async with created as made:
        environment_id = str(made["environment_id"])
        network = str(made.get("network", PUBLIC_NETWORK))
        how = {
            "environment_id": environment_id,
            "command": [*interpreter, *program.arguments],
            "stdin": program.stdin,
        }
        try:
            await _prepare(client, environment_id, program, wanted.packages)
            ended = await attached(client, how)
        except CallRefused as error:
            if not wanted.keep:
                error.hint = of_run(error.hint, network)
            raise
        return ended if wanted.keep else replace(ended, message=of_run(ended.message, network))


@asynccontextmanager
async def _environment(
    client: Client, arguments: Mapping[str, Any], *, keep: bool
) -> AsyncGenerator[Mapping[str, Any]]:
    """Create an environment, and destroy it when the block ends, however it ends.

    Yields the result of create_environment.

    With `keep`, print how to destroy it instead.
    """
    with waiting("Creating an environment") as on_progress:
        create = partial(call_reporting, client, on_progress, "create_environment", **arguments)
        made = await answered(create)  # without its id it could not be destroyed
    environment_id = str(made["environment_id"])
    if keep:
        say(f"Environment {environment_id} is kept; 'waggle env rm {environment_id}' destroys it.")
        yield made
        return
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_DESTROY_SECONDS):
            await _destroy(client, environment_id)


async def _destroy(client: Client, environment_id: str) -> None:
    with waiting("Destroying the environment"):
        try:
            await call(client, "destroy_environment", environment_id=environment_id)
        except CallRefused as error:
            say(f"Environment {environment_id} could not be destroyed: {error}")


async def _prepare(
    client: Client, environment_id: str, program: Program, packages: Sequence[str]
) -> None:
    if packages:
        await _install(client, environment_id, packages)
    await call(
        client,
        "write_file",
        environment_id=environment_id,
        path=program.path,
        content=base64.b64encode(program.data).decode("ascii"),
        encoding="base64",
    )


async def _install(client: Client, environment_id: str, packages: Sequence[str]) -> None:
    """Install packages. Prints the installer's output on stderr before it raises CallRefused."""
    arguments = {"environment_id": environment_id, "packages": list(packages)}
    try:
        with waiting(f"Installing {' '.join(packages)}") as on_progress:
            await call_reporting(client, on_progress, "install_packages", **arguments)
    except CallRefused as error:
        for stream in ("stdout", "stderr"):
            if printed := str(error.result.get(stream, "")).strip():
                say(printed)
        raise
