# SPDX-License-Identifier: Apache-2.0
"""The vault: the secrets file as it is now, and the values that it, files and commands give.

Built once by the composition root; `infra.net.tls` asks it for every request, so that a rotated
value is used by the next one. Values go nowhere else: no log, no error, no disk. A command runs
without a shell, for at most 10 s, with at most 64 KiB of output; its error output is dropped, as it
may repeat a value. A new version of the file that cannot be used is logged, and the old one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument, NotFound, SettingsInvalid
from waggle.domain.secrets import Secret, SecretValue, ValueUnavailable
from waggle.infra.access.operator_file import Reloaded
from waggle.infra.access.secrets_file import Entry, load_secrets, read_private
from waggle.tasks import end, finish

log = structlog.get_logger(__name__)

COMMAND_SECONDS: Final = 10.0
MAX_OUTPUT: Final = 64 * 1024
FAILED_SECONDS: Final = 5.0
"""How long a command that failed is not run again."""
REMEMBERED: Final = 3
"""Values of a secret that are masked: a rotated one may still come back."""


class _Kept(NamedTuple):
    entry: Entry
    until: float
    value: SecretValue | None
    why: str = ""


class SecretVault:
    """The secrets of one file. Lives on one event loop; the owner calls `aclose`.

    Raises SettingsInvalid if the file cannot be used at the start.
    """

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float],
        command_seconds: float = COMMAND_SECONDS,
    ) -> None:
        """`monotonic` times checks and lifetimes, in seconds."""
        self._monotonic = monotonic
        self._command_seconds = command_seconds
        self._file = Reloaded(
            *(path, "secrets", lambda: load_secrets(path)),
            monotonic=monotonic,
            changed=self._forget_removed,
        )
        self._kept: dict[str, _Kept] = {}
        self._running: dict[str, asyncio.Task[_Kept]] = {}
        self._known: dict[str, deque[SecretValue]] = {}

    def secret(self, name: str) -> Secret | None:
        """Return a secret's description as the file is now; None if it has none by that name."""
        entry = self._file.refresh().get(name)
        return None if entry is None else entry.secret

    def usable_by(self, owner: Owner) -> list[Secret]:
        """Return the secrets that an owner's environments may have, by name."""
        found = (entry.secret for _, entry in sorted(self._file.refresh().items()))
        return [secret for secret in found if secret.may_be_used_by(owner)]

    def grant(self, owner: Owner, name: str) -> Secret:
        """Return a secret for a new environment. Raises NotFound, the same if it is another's."""
        found = {secret.name: secret for secret in self.usable_by(owner)}
        if name not in found:
            names = ", ".join(found) or "none"
            raise NotFound(f"There is no secret {ascii(name)[:40]}.", hint=f"You may use: {names}.")
        return found[name]

    def known(self, name: str) -> tuple[SecretValue, ...]:
        """Return the last values that were handed out, at most REMEMBERED, and the file's own."""
        found = tuple(self._known.get(name, ()))
        entry = self._file.entries.get(name)
        own = None if entry is None else entry.value
        return found if own is None or own in found else (*found, own)

    async def value(self, name: str) -> SecretValue:
        """Return the present value. Raises ValueUnavailable. Callers share one run of a command."""
        entry = self._file.refresh().get(name)
        if entry is None:
            raise ValueUnavailable(f"there is no secret '{name}' any more")
        value = entry.value
        if entry.file is not None:
            value = _from_file(entry.file, name)
        if value is None:
            value = await self._from_command(name, entry)
        known = self._known.setdefault(name, deque(maxlen=REMEMBERED))
        if value not in known:
            known.append(value)
        return value

    def reread(self) -> str | None:
        """Read the file now. Return why it cannot be used, and the last stay, or None."""
        return self._file.reread()

    async def aclose(self) -> None:
        """End the commands that run. Idempotent."""
        await end(*self._running.values())

    async def _from_command(self, name: str, entry: Entry) -> SecretValue:
        kept = self._kept.get(name)
        if kept is None or kept.entry != entry or kept.until <= self._monotonic():
            running = self._running.get(name)
            if running is None:
                running = asyncio.create_task(self._run(name, entry))
                self._running[name] = running
                running.add_done_callback(lambda _: self._running.pop(name, None))
            try:
                kept = await asyncio.shield(running)  # a caller that leaves must not fail others
            except asyncio.CancelledError:
                if running.cancelled():
                    raise ValueUnavailable("the server is stopping") from None
                raise
        if kept.value is None:
            raise ValueUnavailable(f"the command of secret '{name}' {kept.why}")
        return kept.value

    async def _run(self, name: str, entry: Entry) -> _Kept:
        value, why = None, ""
        try:
            value = SecretValue(await run_command(entry.command, self._command_seconds))
        except ValueUnavailable as error:
            why = str(error)
        except InvalidArgument:
            why = "gave no usable value"
        if why:
            log.error("secret_command_failed", secret=name, why=why)
        seconds = FAILED_SECONDS if value is None else entry.lifetime
        kept = _Kept(entry, self._monotonic() + seconds, value, why)
        self._kept[name] = kept
        return kept

    def _forget_removed(self) -> None:
        entries = self._file.entries
        self._kept = {name: kept for name, kept in self._kept.items() if name in entries}


def _from_file(path: Path, name: str) -> SecretValue:
    try:
        data, _ = read_private(path, f"file of secret '{name}'", MAX_OUTPUT)
        return SecretValue(stripped(data))
    except SettingsInvalid as error:
        log.error("secret_file_failed", secret=name, why=error.message)
        raise ValueUnavailable(f"the file of secret '{name}' cannot be used") from None
    except InvalidArgument as error:
        log.error("secret_file_failed", secret=name, why=error.message)
        raise ValueUnavailable(f"the file of secret '{name}' has no usable value") from None


def stripped(data: bytes) -> bytes:
    """Return a value without the line's end that programs and editors add."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


async def run_command(command: tuple[str, ...], seconds: float) -> bytes:
    """Return what a program prints. Raises ValueUnavailable. Its process group ends with it."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            process = await _start(command, writing)
        finally:
            os.close(writing)
        try:
            async with asyncio.timeout(seconds):
                data = await _output(pipe)
                status = await process.wait()
        except TimeoutError:
            raise ValueUnavailable(f"took over {seconds:g} s") from None
        finally:
            await finish(_end(process))
    if status:
        raise ValueUnavailable(f"failed with exit status {status}")
    return stripped(data)


async def _start(command: tuple[str, ...], stdout: int) -> asyncio.subprocess.Process:
    start = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(start)
    except (OSError, ValueError):
        raise ValueUnavailable("cannot be started") from None
    except asyncio.CancelledError:
        await finish(_abandon(start))
        raise


async def _output(pipe: FileIO) -> bytes:
    stream = asyncio.StreamReader(limit=MAX_OUTPUT)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    try:
        data = b""
        while piece := await stream.read(MAX_OUTPUT):
            data += piece
            if len(data) > MAX_OUTPUT:
                raise ValueUnavailable(f"printed over {MAX_OUTPUT} bytes")
        return data
    finally:
        transport.close()


async def _abandon(start: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with contextlib.suppress(OSError, ValueError):
        await _end(await start)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the group before its leader is reaped, so that the number is still its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
