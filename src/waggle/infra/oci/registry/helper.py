# SPDX-License-Identifier: Apache-2.0
"""Credential helpers: `docker-credential-NAME get`, with the server's name on its standard input.

Called by `credentials`. No shell, a checked name, bounded output and time. What a helper prints may
be a secret, so it never gets into a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from typing import BinaryIO, cast

from waggle.domain.errors import ImageUnavailable, SettingsInvalid
from waggle.tasks import finish

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = (b"credentials not found", b"no credentials")
HELPER_SECONDS = 20.0


async def from_helper(
    name: str, server: str, timeout: float = HELPER_SECONDS
) -> tuple[str, str] | None:
    """Ask a helper for (user name, secret) of `server`; None when it has none.

    `timeout` is in seconds. The helper's process group is killed and reaped before this returns.
    Raises SettingsInvalid for a malformed name, ImageUnavailable when the helper fails.
    """
    if not _NAME.fullmatch(name):
        raise SettingsInvalid(f"{name[:80]!a} is not the name of a credential helper.")
    program = f"docker-credential-{name}"
    code, output = await _run(program, server.encode(), timeout)
    if code != 0 and any(words in output.lower() for words in _NOT_FOUND):
        return None
    answer = _parse(output) if code == 0 else None
    if answer is None:
        raise ImageUnavailable(
            f"{program} did not give the credentials for {server} (exit code {code}).",
            hint=f"Try: echo {server} | {program} get",
        )
    return answer


def _parse(output: bytes) -> tuple[str, str] | None:
    try:
        value: object = json.loads(output)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    user, secret = fields.get("Username"), fields.get("Secret")
    return (user, secret) if isinstance(user, str) and isinstance(secret, str) else None


async def _run(program: str, stdin: bytes, timeout: float) -> tuple[int, bytes]:
    """Return exit code and output, or code -1 when the output is too long.

    Input is a file and output a pipe of our own: then asyncio waits for the program alone, not for
    whatever it may have left behind with its pipes.
    """
    reader, writer = os.pipe()
    try:
        with os.fdopen(reader, "rb") as pipe, _file_of(stdin) as source:
            process = await _start(program, source, writer)
            os.close(writer)
            writer = -1
            try:
                async with asyncio.timeout(timeout):
                    output = await _read_all(pipe)
                    return (-1, b"") if output is None else (await process.wait(), output)
            except TimeoutError:
                raise ImageUnavailable(f"{program} did not answer in {timeout:g} s.") from None
            finally:
                await finish(_end(process))
    finally:
        if writer >= 0:
            os.close(writer)


def _file_of(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b")
    file.write(data)
    file.seek(0)
    return file


async def _start(program: str, stdin: BinaryIO, stdout: int) -> asyncio.subprocess.Process:
    start = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(start)
    except OSError as error:
        raise ImageUnavailable(
            f"{program} cannot be started: {error.strerror}.",
            hint="An auth file names this credential helper; install it or change the file.",
        ) from error
    except asyncio.CancelledError:
        await finish(_abandon(start))
        raise


async def _read_all(pipe: BinaryIO) -> bytes | None:
    """Read to the end; None when it is longer than any helper's answer."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=_MAX_OUTPUT)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        output = b""
        while len(output) <= _MAX_OUTPUT:
            chunk = await stream.read(_MAX_OUTPUT)
            if not chunk:
                return output
            output += chunk
        return None
    finally:
        transport.close()


async def _abandon(start: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with contextlib.suppress(OSError):
        await _end(await start)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the group while its leader is not reaped, so the number is its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
