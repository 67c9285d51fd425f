# SPDX-License-Identifier: Apache-2.0
"""`waggle agent`: ask the guest agent behind a socket of QEMU or libvirt; see docs/guest-agent.md.

No server is needed. What the guest says is printed as its own words: cleaned, unless it is the
content of a file or a program's output, which are copied byte for byte.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio

from waggle.cli.agent import files, printing
from waggle.cli.agent.asking import ABOUT, Given, given, parameters
from waggle.cli.agent.dialing import explained, greet, socket_at
from waggle.cli.durations import parse_option
from waggle.cli.progress import interruptible, print_json, say
from waggle.domain.errors import GuestLost, InvalidArgument
from waggle.infra.guest.calls import within
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import METHODS, programs, system
from waggle.infra.guest.protocol import files as file_types

_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(days=1)
_LEFT = {
    "exec_command": "the program goes on in the machine if it has begun.",
    "file_write": "what was written by then stays in the machine.",
}
_KILLED = 124
_SIGNALED = 128


def list_methods(*, as_json: bool) -> None:
    """Print the methods of the protocol."""
    if as_json:
        found = [
            {"method": name, "about": ABOUT[name], "parameters": [*parameters(name)]}
            for name in METHODS
        ]
        print_json(found)
        return
    for name in METHODS:
        sys.stdout.write(f"{name:<20} {ABOUT[name]}\n")


def agent(
    method: str,
    words: Sequence[str],
    *,
    socket: Path | None,
    output: Path | None,
    timeout: str | None,
    as_json: bool,
) -> int:
    """Call a method, print its result, and return the exit code.

    Raises InvalidArgument, NoAgent, GuestLost and AgentRefused, and KeyboardInterrupt at a signal.
    """
    asked = given(method, words)
    if output is not None and method != "file_read":
        raise InvalidArgument("--output is for file_read.", hint="Redirect standard output.")
    if socket is None:
        raise InvalidArgument(
            "--socket is needed: the socket of the machine's port.",
            hint="As in: waggle agent --socket /run/vm/agent.sock ping",
        )
    limit = None if timeout is None else parse_option("--timeout", timeout, _SHORTEST, _LONGEST)
    seconds = None if limit is None else limit.total_seconds()
    work = partial(_call, socket, asked, seconds, output, as_json=as_json)
    return anyio.run(interruptible, work, partial(_say_what_is_left, method))


def _say_what_is_left(method: str) -> None:
    """Say what a signal does not undo. The agent takes back nothing."""
    if method in _LEFT:
        say(f"waggle: Interrupted: {_LEFT[method]}")


@asynccontextmanager
async def _connected(
    socket: Path, seconds: float | None
) -> AsyncGenerator[tuple[AgentClient, system.AgentInfo]]:
    client = AgentClient(lambda: socket_at(socket))
    try:
        yield client, await greet(client, socket, seconds)
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


async def _call(
    socket: Path, asked: Given, seconds: float | None, output: Path | None, *, as_json: bool
) -> int:
    async with _connected(socket, seconds) as (client, info):
        try:
            async with within(
                asked.method, _LONGEST.total_seconds() if seconds is None else seconds
            ):
                return await _ask(client, info, asked, seconds, output, as_json=as_json)
        except GuestLost as error:
            raise explained(error) from None


async def _ask(
    client: AgentClient,
    info: system.AgentInfo,
    asked: Given,
    seconds: float | None,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    method, values = asked.method, asked.values
    if asked.source is not None:
        written = await files.write(client, asked.source, values)
        _print(written, as_json=as_json)
        return 0
    if method == "file_read" and "length" not in values and not as_json:
        await files.read(client, values, output)
        return 0
    if method == "list_directory" and not {"offset", "limit"} & {*values}:
        found = await client.list_directory(str(values["path"]))
        _print(file_types.Listing.model_construct(entries=found, more=False), as_json=as_json)
        return 0
    if method == "exec_command" and values.get("wait", True) and seconds is None:
        longest = values.get("timeout") or info.policy.limits.timeout_seconds
        seconds = float(str(longest)) + METHODS["get_process"].seconds
    began = time.perf_counter()
    result = await client.call(method, METHODS[method].result, values, seconds)
    took = time.perf_counter() - began
    if as_json:
        print_json(result.model_dump(mode="json"))
    elif isinstance(result, programs.ProcessInfo) and method == "exec_command":
        return _ended(result)
    elif isinstance(result, file_types.FileData):
        files.put(result.data, output)
    elif method == "ping":
        sys.stdout.write(f"{info.agent!a} answered in {took * 1000:.1f} ms\n")
    else:
        _print(result, as_json=False)
    return 0


def _print(result: file_types.Result, *, as_json: bool) -> None:
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        printing.show(result)


def _ended(process: programs.ProcessInfo) -> int:
    """Copy a program's output, and return its exit code, or the one that stands for its end."""
    if process.status == programs.Status.RUNNING:
        printing.show(process)
        return 0
    sys.stdout.buffer.write(process.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(process.stderr)
    sys.stderr.buffer.flush()
    for name, all_bytes, kept in (
        ("output", process.stdout_bytes, process.stdout),
        ("error output", process.stderr_bytes, process.stderr),
    ):
        if all_bytes > len(kept):
            say(f"waggle: {all_bytes:,} bytes of {name}, of which {len(kept):,} were kept.")
    if process.status == programs.Status.EXITED and process.exit_code is not None:
        return process.exit_code
    if process.status == programs.Status.TIMED_OUT:
        say(f"waggle: It was killed after {process.seconds:.1f} s, its time.")
        return _KILLED
    return _SIGNALED + (process.signal or 0)
